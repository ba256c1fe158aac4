"""The command line: files in, text out, for a person at a shell; no HTTP."""
