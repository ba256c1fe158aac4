"""Pure ASGI middleware: the log line, errors, bodies that are not read. `app.py` shows their order."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send, header, log_fields, new_request_id
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.errors import error_event, send_error, unforeseen
from whisper_server.api.health import PROBES
from whisper_server.core.errors import (
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    ShuttingDown,
    UploadStalled,
    WhisperServerError,
)

log = logging.getLogger("whisper_server.requests")

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LINGER_S = 2.0  # for what a client still sends after we said no


class RequestLogMiddleware:
    """Names each request and writes its one line: no text, no file names, no raw paths.

    The line of a probe is for DEBUG only: it comes every second, and says what /metrics counts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put `x-request-id` on the reply and log when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id") or ""
        request_id = given if _SANE_ID.fullmatch(given) else new_request_id()
        fields = log_fields(scope)
        status = 0
        started = time.monotonic()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            extra = "".join(f" {name}={value}" for name, value in fields.items())
            wall_s = time.monotonic() - started
            log.log(
                logging.DEBUG if scope["path"] in PROBES else logging.INFO,
                "id=%s method=%s path=%s status=%s wall_s=%.3f%s",
                request_id,
                scope["method"],
                route,
                status or "-",
                wall_s,
                extra,
            )


class ErrorMiddleware:
    """Turns every exception into an error reply; the only place that does, whoever raised it.

    A stream of events whose status is out ends with an error event; any other reply that has begun
    is broken off, so that nobody takes it for whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; answer what is raised."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _WatchedReply(send)
        fields = log_fields(scope)
        try:
            await self._app(scope, receive, reply.send)
        except ClientDisconnected as gone:
            fields["outcome"] = "client_disconnected"
            _forget_frames(gone)
        except WhisperServerError as error:
            fields["outcome"] = type(error).__name__
            if error.status >= 500 and error.__cause__ is not None:
                log.warning("%s: %s", error.message, error.__cause__)
            _forget_frames(error)
            if not await reply.end_with(error):
                raise
        except asyncio.CancelledError:
            # Only the server's shutdown cancels a request, when the grace period is over; the task ends
            # here, so nobody waits for the exception, and it would be logged as a failure of ours.
            fields["outcome"] = "shutdown"
            if not await reply.end_with(ShuttingDown("The server is shutting down; try again later.")):
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

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = header({"headers": message.get("headers", ())}, b"content-type") or ""
            self._is_stream = kind.startswith("text/event-stream")
        self._has_begun = True
        await self._send(message)

    async def end_with(self, error: WhisperServerError) -> bool:
        """Tell the client, where the reply still has a place for it; return whether it had."""
        if not self._has_begun:
            await send_error(self._send, error)
        elif self._is_stream:
            await self._send({"type": "http.response.body", "body": error_event(error), "more_body": False})
        return self._is_stream or not self._has_begun


class BodyLimitMiddleware:
    """Counts the bytes of a body as they come in, before anything parses or keeps them.

    Says no to clients that are still sending in a way that lets them hear it, also for want of a place, to
    those that send too slowly, and where what has come in so far is wrong already.
    """

    def __init__(
        self, app: ASGIApp, *, limit_of: Callable[[str], int], too_large: Callable[[int], PayloadTooLarge]
    ) -> None:
        """Take the limit in bytes by content type, and the error for a number of bytes."""
        self._app = app
        self._limit_of = limit_of
        self._too_large = too_large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse by the declared length, else count; after a refusal read on for a moment."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _CountedBody(receive, self._limit_of(header(scope, b"content-type") or ""), self._too_large)
        has_begun = False  # the reply

        async def send_watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            declared = header(scope, b"content-length")
            if declared is not None and declared.isdecimal():
                body.check(int(declared))
            await self._app(scope, body.receive, send_watched)
        except (InvalidRequest, PayloadTooLarge, Overloaded, UploadStalled) as error:
            if body.is_complete or has_begun or (isinstance(error, InvalidRequest) and not body.has_begun):
                raise
            log_fields(scope)["outcome"] = type(error).__name__
            await send_error(send, error, more_body=True)
            # A socket that is closed with bytes unread is reset, and the client may never see why. A
            # client that asked first was not told to go on: from it nothing more comes.
            if body.has_begun or header(scope, b"expect") is None:
                await _drain(receive)
            await send({"type": "http.response.body", "body": b""})


class _CountedBody:
    """A `receive` that raises once more than `limit` bytes have come in."""

    def __init__(self, receive: Receive, limit: int, too_large: Callable[[int], PayloadTooLarge]) -> None:
        self._receive = receive
        self._limit = limit
        self._too_large = too_large
        self._n_bytes = 0
        self.is_complete = False

    @property
    def has_begun(self) -> bool:
        return self._n_bytes > 0

    def check(self, n_bytes: int) -> None:
        if n_bytes > self._limit:
            raise self._too_large(n_bytes)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._n_bytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
            self.check(self._n_bytes)
        return message


async def _drain(receive: Receive) -> None:
    """Read and forget what still comes, for a moment."""

    async def read_all() -> None:
        message = await receive()
        while message["type"] == "http.request" and message.get("more_body", False):
            message = await receive()

    try:
        await asyncio.wait_for(read_all(), _LINGER_S)
    except TimeoutError:
        return
