"""What the web framework raises, translated into core errors; so `{"detail": ...}` never appears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException  # noqa: TID251  (caught here, raised nowhere)
from starlette.requests import Request
from starlette.responses import Response

from whisper_server.api.errors import error_reply
from whisper_server.core.errors import (
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    WhisperServerError,
)

_MAX_SHOWN_CHARS = 100


def install_handlers(app: FastAPI) -> None:
    """Make the app answer the framework's own errors with OpenAI's error object."""
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


def response_of(error: WhisperServerError) -> Response:
    """Return an error as a response."""
    reply = error_reply(error)
    return Response(reply.body, reply.status, reply.headers)


def invalid_value(errors: Sequence[Any]) -> InvalidRequest:
    """Return the first of pydantic's errors, naming the parameter."""
    first = errors[0]
    location = [str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"}]
    param = location[0] if location else None
    reason = str(first["msg"]).removeprefix("Value error, ")
    where = ".".join(location)[:_MAX_SHOWN_CHARS] or "The request"
    return InvalidRequest(f"{where}: {reason}", param=param)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"[:_MAX_SHOWN_CHARS]
    ours: WhisperServerError
    if error.status_code == 404:
        ours = RouteNotFound(f"Invalid URL ({where}). GET /docs lists what there is.")
    elif error.status_code == 405:
        ours = MethodNotAllowed(f"Not allowed: {where}. GET /docs lists what there is.")
    else:
        ours = InvalidRequest(str(error.detail))
        ours.status = error.status_code
    response = response_of(ours)
    response.headers.update(error.headers or {})
    return response


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_of(invalid_value(error.errors()))
