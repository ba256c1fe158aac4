"""core.errors -> OpenAI's error object; no other module knows its JSON.

Standard library and core only: the server's startup needs it before the web framework is imported.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from whisper_server.core.errors import (
    InvalidRequest,
    OutOfMemory,
    ShuttingDown,
    Unauthorized,
    WhisperServerError,
)

MAX_SHOWN_CHARS = 100  # of what a client sent, in a message

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The official clients repeat these and every 5xx by themselves, unless they are told not to.
_RETRIED_BY_CLIENTS = frozenset({408, 409, 429})


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error, ready for the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


def error_object(error: WhisperServerError) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_reply(error: WhisperServerError) -> ErrorReply:
    """Return status, headers and body for an error."""
    headers = {"content-type": "application/json"}
    if error.retry_after_s is not None and error.retry_helps:
        headers["retry-after"] = str(error.retry_after_s)
    if not error.retry_helps and (error.status >= 500 or error.status in _RETRIED_BY_CLIENTS):
        headers["x-should-retry"] = "false"
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if error.status == 413 or isinstance(error, ShuttingDown):
        headers["connection"] = "close"  # the rest of the body is not read, or the server ends
    # Lone surrogates come in through JSON escapes; they are no UTF-8 and must not fail here.
    body = json.dumps(error_object(error), ensure_ascii=False).encode("utf-8", "replace")
    headers["content-length"] = str(len(body))
    return ErrorReply(error.status, headers, body)


def error_event(error: WhisperServerError) -> bytes:
    """Return the event that ends a stream whose status line has gone out already."""
    # In ASCII, because some clients take other characters for the end of the line.
    return (
        b"event: error\ndata: "
        + json.dumps({"type": "error", **error_object(error)}).encode("ascii")
        + b"\n\n"
    )


def invalid_value(errors: Sequence[Any]) -> InvalidRequest:
    """Return the first of pydantic's errors, naming the parameter."""
    first = errors[0]
    location = [str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"}]
    param = location[0] if location else None
    reason = str(first["msg"]).removeprefix("Value error, ")
    where = ".".join(location)[:MAX_SHOWN_CHARS] or "The request"
    return InvalidRequest(f"{where}: {reason}", param=param)


def unforeseen() -> WhisperServerError:
    """Return what a client gets to see of a fault of our own."""
    error = WhisperServerError("The server failed on this request; its log says why.")
    error.retry_helps = False
    return error


def out_of_memory() -> OutOfMemory:
    """Return what a client gets to hear where Python found no memory."""
    return OutOfMemory("The server has no memory for this request now; try again later.")


async def send_error(send: Send, error: WhisperServerError, *, more_body: bool = False) -> None:
    """Send an error as a whole ASGI reply; with `more_body` the caller still has to end it."""
    reply = error_reply(error)
    if more_body:
        reply.headers["connection"] = "close"  # the rest of the request is not read
    headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": more_body})
