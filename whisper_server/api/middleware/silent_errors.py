"""Errors without a body, where a client stores the body of every reply as a subtitle file."""

from __future__ import annotations

import json

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send

SILENT_PATHS = frozenset({"/asr"})
MESSAGE = b"x-error"  # the header that has what the body would say
MAX_CHARS = 500


class SilentErrorsMiddleware:
    """Empties the bodies of errors on some paths; their message goes into a header.

    Bazarr writes what it gets into a file beside the film, whatever the status, and asks never again for a
    film that has one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with a `send` that empties errors."""
        if scope["type"] == "http" and scope["path"].rstrip("/") in SILENT_PATHS:
            send = _Silencer(send).send
        await self._app(scope, receive, send)


class _Silencer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None  # of an error, held until its first body tells what happened
        self._is_error = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start, self._is_error = message, True
        elif not self._is_error:
            await self._send(message)
        elif message["type"] == "http.response.body":
            if self._start is not None:
                start, self._start = self._start, None
                await self._send({**start, "headers": _headers(start, message.get("body", b""))})
            await self._send({**message, "body": b""})


def _headers(start: Message, body: bytes) -> list[tuple[bytes, bytes]]:
    kept = [each for each in start.get("headers", ()) if each[0] not in {b"content-type", b"content-length"}]
    return [*kept, (b"content-length", b"0"), (MESSAGE, _message(body))]


def _message(body: bytes) -> bytes:
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return b""
    return " ".join(message.split())[:MAX_CHARS].encode("ascii", "replace")
