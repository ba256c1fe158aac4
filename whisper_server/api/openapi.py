"""The OpenAPI document: what the framework writes, mended where it cannot know better.

Request bodies are read by our own parsers, so their schemas come in by hand; here they become components,
and their references lead somewhere. Headers that middleware sets are added to every reply.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from whisper_server.api.middleware.auth import OPEN_PATHS
from whisper_server.api.middleware.silent_errors import SILENT_PATHS

_LOCAL = "#/$defs/"
_COMPONENTS = "#/components/schemas/"

_JSON = "application/json"

_KEY = (
    "\n\nThis server asks for a key: press **Authorize** and enter what `WHISPER_API_KEY` holds; every "
    "request of this page then has it. Clients send it as `Authorization: Bearer <key>`."
)
_NO_KEY = "\n\nThis server asks for no key; clients that insist on one may send any."

_REQUEST_ID = {
    "x-request-id": {
        "description": "Names the request in the server's log; the client's own where it sent one.",
        "schema": {"type": "string"},
    }
}
_MESSAGE = {
    "x-error": {"description": "What went wrong; the reply has no body.", "schema": {"type": "string"}}
}
_NAMED_BY_CLIENT = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "A name for the request: 1 to 64 letters, digits, dots, dashes or underscores. Without, "
    "and for other names, the server makes one.",
    "schema": {"type": "string"},
}
_RETRY = {
    "retry-after": {
        "description": "Seconds until a retry makes sense.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "x-should-retry": {
        "description": "`false` where the same request would fail again.",
        "schema": {"type": "string", "enum": ["false"]},
    },
}


def install_document(app: FastAPI, *, needs_key: bool) -> None:
    """Make the app describe itself completely; with `needs_key`, the key on every route but the probes."""
    write = app.openapi

    @functools.cache
    def openapi() -> dict[str, Any]:
        document = write()
        for path, operation in _operations(document):
            _name_bodies(document, operation)
            _put_json_first(operation)
            _add_headers(operation)
            if path in SILENT_PATHS:
                _empty_errors(operation)
            if needs_key and path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
        document["info"]["description"] += _KEY if needs_key else _NO_KEY
        if needs_key:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _name_bodies(document: dict[str, Any], operation: dict[str, Any]) -> None:
    """Move the schemas of the request's bodies, and what they refer to, to the components."""
    schemas: dict[str, Any] = document["components"]["schemas"]
    for body in operation.get("requestBody", {}).get("content", {}).values():
        schema = _without_null(body["schema"])
        body["schema"] = schema
        for name, definition in schema.pop("$defs", {}).items():
            schemas.setdefault(name, _with_global_references(definition))
        if name := schema.get("title"):
            schemas.setdefault(name, _with_global_references(schema))
            body["schema"] = {"$ref": _COMPONENTS + name}


def _without_null(node: Any) -> Any:
    """Return a schema of a request without null: what is absent need not be sent, and forms have no null."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _without_null(value) for key, value in node.items() if (key, value) != ("default", None)}
    kinds = [kind for kind in found.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del found["anyOf"]
        return {**kinds[0], **found}
    return {**found, "anyOf": kinds} if kinds else found


def _with_global_references(node: Any) -> Any:
    """Return a schema whose references are those of a whole document."""
    if isinstance(node, list):
        return [_with_global_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: value.replace(_LOCAL, _COMPONENTS) if key == "$ref" else _with_global_references(value)
        for key, value in node.items()
    }


def _put_json_first(operation: dict[str, Any]) -> None:
    """Order the contents of bodies and replies: generators of clients take the first one that they know."""
    for holder in (operation.get("requestBody", {}), *operation["responses"].values()):
        content = holder.get("content", {})
        if _JSON in content:
            holder["content"] = {_JSON: content[_JSON], **content}


def _empty_errors(operation: dict[str, Any]) -> None:
    """Describe errors that have their message in a header, and no body."""
    for status, response in operation["responses"].items():
        if status != "200":
            response.pop("content", None)
            response["headers"] |= _MESSAGE


def _add_headers(operation: dict[str, Any]) -> None:
    operation.setdefault("parameters", []).append(_NAMED_BY_CLIENT)
    for status, response in operation["responses"].items():
        headers = _REQUEST_ID | (_RETRY if status in {"429", "4XX", "5XX"} else {})
        response["headers"] = {**response.get("headers", {}), **headers}
