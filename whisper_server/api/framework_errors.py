"""What the web framework raises, translated into core errors; so `{"detail": ...}` never appears."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException  # noqa: TID251  (caught here, raised nowhere)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from whisper_server.api.errors import MAX_SHOWN_CHARS, error_reply, invalid_value
from whisper_server.core.errors import (
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    WhisperServerError,
)


def install_handlers(app: FastAPI) -> None:
    """Make the app answer the framework's own errors with OpenAI's error object."""
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


def response_of(error: WhisperServerError) -> Response:
    """Return an error as a response."""
    reply = error_reply(error)
    return Response(reply.body, reply.status, reply.headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"[:MAX_SHOWN_CHARS]
    ours: WhisperServerError
    if error.status_code == 404:
        ours = RouteNotFound(f"Invalid URL ({where}). GET /docs lists what there is.")
    elif error.status_code == 405:
        allowed = {"Allow": ", ".join(_methods(request))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        ours = MethodNotAllowed(f"Not allowed: {where}. GET /docs lists what there is.")
        error.headers = allowed
    else:
        ours = InvalidRequest(str(error.detail))
        ours.status = error.status_code
    response = response_of(ours)
    response.headers.update(error.headers or {})
    return response


def _methods(request: Request) -> list[str]:
    """Return what the path may be asked with, over all routes that it has."""
    routes = request.app.routes
    found = [
        method
        for method in ("GET", "POST", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return [*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"]


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_of(invalid_value(error.errors()))
