"""One record per request of what went by while it ran; the log line and /metrics are made from it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from whisper_server.api.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    header,
    log_fields,
    new_request_id,
    reply_headers,
)
from whisper_server.api.health import PROBES
from whisper_server.core.errors import RouteNotFound
from whisper_server.core.events import Events, Stage

log = logging.getLogger("whisper_server.requests")

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
SWITCHING_PROTOCOLS = 101  # the status of a WebSocket that was accepted
_RECORD = "request_record"  # in the scope's state


@dataclass(slots=True)
class RequestRecord:
    """What one request has received and sent so far.

    It lies in the scope, so it must not refer to what has the scope: a circle would keep the upload in memory
    until the collector comes by.
    """

    request_id: str
    started_s: float = field(default_factory=time.monotonic)
    body_bytes: int = 0  # received
    is_body_complete: bool = False
    status: int = 0  # 0: no reply has begun

    @property
    def wall_s(self) -> float:
        """Seconds since the request began."""
        return time.monotonic() - self.started_s

    @property
    def stage(self) -> Stage:
        """How far the request is."""
        return "reply" if self.status else "work" if self.is_body_complete else "upload"

    def count_received(self, message: Message) -> None:
        """Count a part of the body."""
        if message["type"] == "http.request":
            self.body_bytes += len(message.get("body", b""))
            self.is_body_complete = not message.get("more_body", False)

    def count_sent(self, message: Message, headers: Mapping[str, str]) -> None:
        """Note the reply's status, and put the request's name and what its route says on its headers."""
        if message["type"] in {"http.response.start", "websocket.accept"}:
            self.status = message.get("status", SWITCHING_PROTOCOLS)
            added = {"x-request-id": self.request_id, **headers}
            pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in added.items()]
            message["headers"] = [*message.get("headers", ()), *pairs]
        elif message["type"] == "websocket.close" and not self.status:
            self.status = RouteNotFound.status  # so it is answered: see `WebSocketRefusalMiddleware`


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request that `RequestLogMiddleware` has seen."""
    record: RequestRecord = scope["state"][_RECORD]
    return record


class RequestLogMiddleware:
    """Names each request, records it, writes its one line and tells the events.

    The line has no text, no file names and no raw paths. That of a probe is for DEBUG only: it comes every
    second, and says what /metrics counts.
    """

    def __init__(self, app: ASGIApp, *, events: Events | None = None) -> None:
        self._app = app
        self._events = events or Events()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put `x-request-id` on the reply and report when it has ended."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id") or ""
        record = RequestRecord(given if _SANE_ID.fullmatch(given) else new_request_id())
        scope.setdefault("state", {})[_RECORD] = record

        async def receive_counted() -> Message:
            message = await receive()
            record.count_received(message)
            return message

        async def send_counted(message: Message) -> None:
            record.count_sent(message, reply_headers(scope))
            await send(message)

        try:
            await self._app(scope, receive_counted, send_counted)
        finally:
            self._report(scope, record)

    def _report(self, scope: Scope, record: RequestRecord) -> None:
        # Starlette puts the route here once it has found one; its path is the template.
        route: str | None = getattr(scope.get("route"), "path", None)
        wall_s = record.wall_s
        fields = log_fields(scope)
        self._events.request_done(route, _method(scope), record.status, wall_s)
        outcome = fields.get("outcome")
        if outcome == "client_disconnected":
            self._events.client_disconnected(record.stage)
        elif outcome is not None:
            self._events.request_failed(outcome)
        log.log(
            logging.DEBUG if scope["path"] in PROBES else logging.INFO,
            "id=%s method=%s path=%s status=%s wall_s=%.3f%s",
            record.request_id,
            _method(scope),
            route or "-",
            record.status or "-",
            wall_s,
            "".join(f" {name}={value}" for name, value in fields.items()),
        )


def _method(scope: Scope) -> str:
    """Return the method; a WebSocket's handshake is always a GET."""
    method: str = scope.get("method", "GET")
    return method
