"""Exceptions -> replies, for everything that is raised below."""

from __future__ import annotations

import asyncio
import logging

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send, header, log_fields
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.errors import error_event, send_error, unforeseen
from whisper_server.core.errors import ShuttingDown, WhisperServerError
from whisper_server.core.shutdown import SHUTTING_DOWN

log = logging.getLogger("whisper_server.requests")


class ErrorMiddleware:
    """Turns every exception into an error reply; the only place that does.

    A stream of events whose status is out ends with an error event, an open WebSocket with a close code; any
    other reply that has begun is broken off, so that it cannot be taken for a whole one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; answer what is raised."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        reply = _WatchedReply(send)
        fields = log_fields(scope)
        try:
            await self._app(scope, receive, reply.send)
        except ClientDisconnected as disconnect:
            fields["outcome"] = "client_disconnected"
            _forget_frames(disconnect)
        except WhisperServerError as error:
            fields["outcome"] = type(error).__name__
            if error.status >= 500 and error.__cause__ is not None:
                log.warning("%s: %s", error.message, error.__cause__)
            _forget_frames(error)
            if not await reply.end_with(error):
                raise
        except asyncio.CancelledError:
            # Only the server's shutdown cancels a request, when the grace period is over; the task ends
            # here, so nothing awaits the exception, and it would be logged as a failure of the server.
            fields["outcome"] = "shutdown"
            if not await reply.end_with(ShuttingDown(SHUTTING_DOWN)):
                raise
        except Exception as error:
            fields["outcome"] = "bug"
            log.exception("A request failed unexpectedly.")
            _forget_frames(error)
            await reply.end_with(unforeseen())


def _forget_frames(error: BaseException) -> None:
    """Cut an error, with those behind it, off from the functions that it left.

    Their variables hold the upload, and somewhere the error itself or a task that has it: a circle, kept
    until the collector comes by, and a hundred refused uploads may come before.
    """
    errors = [error]
    while errors:
        last = errors.pop()
        last.__traceback__ = None
        errors += [each for each in (last.__cause__, last.__context__) if each and each.__traceback__]


class _WatchedReply:
    """A `send` that remembers how far the reply is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = False
        self._is_stream = False
        self._is_socket = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = header({"headers": message.get("headers", ())}, b"content-type") or ""
            self._is_stream = kind.startswith("text/event-stream")
        self._has_begun = True
        self._is_socket = message["type"] == "websocket.accept" or self._is_socket
        await self._send(message)

    async def end_with(self, error: WhisperServerError) -> bool:
        """Tell the client, where the reply can still carry an error; return whether it could."""
        if not self._has_begun:
            await send_error(self._send, error)
        elif self._is_stream:
            await self._send({"type": "http.response.body", "body": error_event(error), "more_body": False})
        elif self._is_socket:
            await self._send(
                {"type": "websocket.close", "code": _close_code(error), "reason": error.code or ""}
            )
        return self._is_stream or self._is_socket or not self._has_begun


def _close_code(error: WhisperServerError) -> int:
    """Return RFC 6455's code, or one registered with IANA, for an error that ends a session."""
    if isinstance(error, ShuttingDown):
        return 1001  # going away
    return 1013 if error.status in {429, 503} else 1011  # try again later; internal error
