"""Pure ASGI middleware: the log line, errors, the size of bodies. `app.py` shows their order."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send, header, log_fields
from whisper_server.api.errors import send_error
from whisper_server.core.errors import PayloadTooLarge, ShuttingDown, WhisperServerError

log = logging.getLogger("whisper_server.requests")

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LINGER_S = 2.0  # for what a client still sends after we said no


class ClientGone(Exception):
    """The client went away; there is nobody to answer."""


class RequestLogMiddleware:
    """Names each request and writes its one line: no text, no file names, no raw paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put `x-request-id` on the reply and log when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id") or ""
        request_id = given if _SANE_ID.fullmatch(given) else f"req_{os.urandom(12).hex()}"
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
            log.info(
                "id=%s method=%s path=%s status=%s wall_s=%.3f%s",
                request_id,
                scope["method"],
                route,
                status or "-",
                wall_s,
                extra,
            )


class ErrorMiddleware:
    """Turns every exception into an error reply; the only place that does, whoever raised it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; answer what is raised, unless the reply has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        fields = log_fields(scope)
        try:
            await self._app(scope, receive, send_watched)
        except ClientGone:
            fields["outcome"] = "client_gone"
        except WhisperServerError as error:
            fields["outcome"] = type(error).__name__
            if error.status >= 500 and error.__cause__ is not None:
                log.warning("%s: %s", error.message, error.__cause__)
            if has_begun:
                raise
            await send_error(send, error)
        except asyncio.CancelledError:
            # Only the server's shutdown cancels a request, when the grace period is over; the task ends
            # here, so nobody waits for the exception, and it would be logged as a failure of ours.
            fields["outcome"] = "shutdown"
            if has_begun:
                raise
            await send_error(send, ShuttingDown("The server is shutting down; try again later."))
        except Exception:
            fields["outcome"] = "bug"
            log.exception("A request failed unexpectedly.")
            if not has_begun:
                await send_error(send, _unforeseen())


def _unforeseen() -> WhisperServerError:
    error = WhisperServerError("The server failed on this request; its log says why.")
    error.retry_helps = False
    return error


class BodyLimitMiddleware:
    """Counts the bytes of a body as they come in, before anything parses or keeps them."""

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
        try:
            declared = header(scope, b"content-length")
            if declared is not None and declared.isdecimal():
                body.check(int(declared))
            await self._app(scope, body.receive, send)
        except PayloadTooLarge as error:
            if not body.is_over:
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
        self.is_over = False

    @property
    def has_begun(self) -> bool:
        return self._n_bytes > 0

    def check(self, n_bytes: int) -> None:
        if n_bytes > self._limit:
            self.is_over = True
            raise self._too_large(n_bytes)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._n_bytes += len(message.get("body", b""))
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
    except asyncio.TimeoutError:
        return
