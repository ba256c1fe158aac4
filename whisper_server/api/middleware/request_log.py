"""The line in the log that every request has."""

from __future__ import annotations

import logging
import re
import time

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send, header, log_fields, new_request_id
from whisper_server.api.health import PROBES

log = logging.getLogger("whisper_server.requests")

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


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
