"""A front that is lost loses no request: this runs before the fronts, where the clients' connections are.

What a client has sent is kept until its reply begins, within bounds. Where the front ends before that, the
request goes to another one; what was answered is never asked again. Errors of Ray Serve's own, which are
plain text, become OpenAI's.

Pure ASGI; knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable

from starlette.middleware import Middleware

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send
from whisper_server.api.errors import error_event, send_error
from whisper_server.core.errors import Overloaded, Unavailable, UploadStalled, WhisperServerError

log = logging.getLogger(__name__)

ATTEMPTS = 4  # at a request: it may be what ends the fronts
PAUSES_S = (0.0, 0.2, 1.0)  # after each but the last: Serve has to notice that a front is gone
KEPT_BYTES = 256 << 20  # of all requests that wait for their reply; what is more is not asked for again
MESSAGE_BYTES = 512  # that a part of a body takes beside its bytes: some clients send them one by one
# What Ray Serve answers by itself.
_OWN: dict[int, type[WhisperServerError]] = {408: UploadStalled, 429: Overloaded, 503: Unavailable}
_KEY = b"idempotency-key"
_SEEN = "whisper_server.retry"  # in the scope: it is in front of the fronts already
_LOST = "The machine that worked on this request was lost; try again."


class KeptBytes:
    """How much of the bodies of all requests may be kept."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._left = most

    def take(self, n_bytes: int) -> bool:
        """Take room; return whether there was any."""
        if n_bytes > self._left:
            return False
        self._left -= n_bytes
        return True

    def give_back(self, n_bytes: int) -> None:
        """Give room back."""
        self._left += n_bytes


class _Body:
    """What a client has sent so far, for as often as it is needed."""

    def __init__(self, receive: Receive, kept: KeptBytes) -> None:
        self._receive = receive
        self._kept = kept
        self._n_bytes = 0
        self._messages: list[Message] | None = []  # None: not kept, or not any more
        self.has_left = False

    @property
    def is_whole(self) -> bool:
        """Whether it can be read from its beginning."""
        return self._messages is not None

    def reader(self) -> Receive:
        """Return what reads it from the beginning, and goes on with what comes in."""
        seen = 0

        async def receive() -> Message:
            nonlocal seen
            if self._messages is not None and seen < len(self._messages):
                seen += 1
                return self._messages[seen - 1]
            message = await self._receive()
            seen += 1
            self._keep(message)
            return message

        return receive

    def _keep(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.has_left = True
            return
        n_bytes = MESSAGE_BYTES + len(message.get("body", b""))
        if self._messages is None:
            return
        if self._kept.take(n_bytes):
            self._n_bytes += n_bytes
            self._messages.append(message)
        else:
            self.forget()

    def forget(self) -> None:
        """Keep nothing any more. Idempotent."""
        self._messages = None
        self._kept.give_back(self._n_bytes)
        self._n_bytes = 0


class _Reply:
    """What goes to the client."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send = send
        self._body = body
        self.has_begun = False
        self.has_ended = False
        self._is_events = False
        self._replaced: WhisperServerError | None = None

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            self._body.forget()
            kind = _header(message, b"content-type")
            self._is_events = kind.startswith(b"text/event-stream")
            self._replaced = _own_error(message, kind)
            message["headers"] = _once(message.get("headers", ()))
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.has_ended = True
        if self._replaced is None:
            await self._send(message)
        elif self.has_ended:
            await send_error(self._send, self._replaced)

    async def end(self) -> None:
        """Say that the work was lost, where that can still be said."""
        error = Unavailable(_LOST)
        if not self.has_begun:
            self.has_begun = self.has_ended = True
            await send_error(self._send, error)
        elif self._is_events and not self.has_ended:
            self.has_ended = True
            await self._send({"type": "http.response.body", "body": error_event(error)})


class RetryMiddleware:
    """Asks another front where one is lost before its reply has begun."""

    def __init__(self, app: ASGIApp, *, kept: KeptBytes | None = None) -> None:
        self._app = app
        self._kept = kept or KeptBytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but the loss of a front."""
        if scope["type"] != "http" or scope.get(_SEEN):
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._kept)
        try:
            await self._answer(scope, body, _Reply(send, body))
        finally:
            body.forget()

    async def _answer(self, scope: Scope, body: _Body, reply: _Reply) -> None:
        # A front may be lost between making a job and telling of it.
        headers = _with_key(scope["headers"])
        for attempt in range(1, ATTEMPTS + 1):
            await self._app({**scope, _SEEN: True, "headers": [*headers]}, body.reader(), reply.send)
            if reply.has_begun or body.has_left or not body.is_whole:
                break
            log.warning("a front was lost before it answered (attempt %d)", attempt)
            await asyncio.sleep(PAUSES_S[attempt - 1] if attempt < ATTEMPTS else 0.0)
        if not body.has_left:
            await reply.end()


def _with_key(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a request's headers with a name for it, where the client gave none; jobs are known by it."""
    given = [*headers]
    if not any(name.lower() == _KEY for name, _ in given):
        given.append((_KEY, secrets.token_hex(16).encode()))
    return given


def middlewares() -> list[Middleware]:
    """Return what Ray Serve's proxies put around the fronts; a variable of Serve's names this function."""
    return [Middleware(RetryMiddleware)]


def _own_error(message: Message, kind: bytes) -> WhisperServerError | None:
    """Return our error for one of Ray Serve's; ours are never plain text."""
    own = _OWN.get(message["status"])
    if own is None or not kind.startswith(b"text/plain"):
        return None
    return own("The cluster cannot take this request now; try again later.")


def _header(message: Message, name: bytes) -> bytes:
    return next((value for key, value in message.get("headers", ()) if key.lower() == name), b"")


def _once(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers with one name of the request: Ray Serve repeats the one that the front gave."""
    found: list[tuple[bytes, bytes]] = []
    has_name = False
    for key, value in headers:
        if key.lower() == b"x-request-id":
            if has_name:
                continue
            has_name = True
        found.append((key, value))
    return found
