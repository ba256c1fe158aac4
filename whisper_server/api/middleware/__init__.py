"""Pure ASGI middleware: one cross-cutting rule per file; app.py shows their order."""
