"""What the server answers in the application's place: an error in its usual shape, and a line of the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus

from whisper_server.api.asgi import new_request_id
from whisper_server.api.errors import error_reply
from whisper_server.core.errors import WhisperServerError

log = logging.getLogger("whisper_server.requests")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply after which the connection is closed."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


def refusal_of(error: WhisperServerError, *, is_logged: bool = True) -> Refusal:
    """Return the reply that says an error."""
    reply, request_id = error_reply(error), new_request_id()
    if is_logged:
        log.info("id=%s status=%s outcome=%s", request_id, reply.status, type(error).__name__)
    headers = [*reply.headers.items(), ("connection", "close"), ("x-request-id", request_id)]
    return Refusal(reply.status, HTTPStatus(reply.status).phrase, headers, reply.body)
