"""What the app's own OpenAPI document says there is; tests of what is not there yet ask here.

A mark of this module skips its test only while the document lacks the route or the field, so a feature
that comes in switches on its own tests.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from whisper_server.api.app import create_app
from whisper_server.core.config import Settings

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
CHAT = "/v1/chat/completions"
MODEL = "/v1/models/{model}"

FORM = "multipart/form-data"
JSON = "application/json"


@functools.cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document of an application with default settings."""
    return create_app(Settings(_env_file=None, engine="fake")).openapi()


def has_route(method: str, path: str) -> bool:
    return method.lower() in document()["paths"].get(path, {})


def request_fields(path: str, content_type: str, *, method: str = "post") -> set[str]:
    """Return the names of a body's fields, without the brackets of lists."""
    operation = document()["paths"].get(path, {}).get(method, {})
    body = operation.get("requestBody", {}).get("content", {}).get(content_type, {})
    return {name.removesuffix("[]") for name in resolve(body.get("schema", {})).get("properties", {})}


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into the document's components."""
    while "$ref" in schema:
        node: Any = document()
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


def needs_route(method: str, path: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not has_route(method, path), reason=f"the OpenAPI document has no {method.upper()} {path}"
    )


def needs_field(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        name not in request_fields(TRANSCRIPTIONS, FORM),
        reason=f"the OpenAPI document has no field {name} in the form of {TRANSCRIPTIONS}",
    )


needs_chat = needs_route("post", CHAT)
needs_translations = needs_route("post", TRANSLATIONS)
needs_delete = needs_route("delete", MODEL)
# Chat completions and streamed transcriptions come from one change; that the document names the media
# type too is a test of its own (test_openapi.py), so a forgotten line cannot keep the tests asleep.
needs_stream = needs_chat
