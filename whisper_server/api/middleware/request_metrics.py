"""Counts every request for /metrics: how it ended, and where its client was when it left."""

from __future__ import annotations

import time

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send, log_fields
from whisper_server.core.events import Events, Stage


class MeasureMiddleware:
    """Tells the events about each request when it has ended."""

    def __init__(self, app: ASGIApp, *, events: Events) -> None:
        self._app = app
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch the messages go by."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, has_body = 0, False
        started = time.monotonic()

        async def receive_watched() -> Message:
            nonlocal has_body
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                has_body = True
            return message

        async def send_watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive_watched, send_watched)
        finally:
            # Starlette puts the route here once it has found one; its path is the template.
            route = getattr(scope.get("route"), "path", None)
            self._events.request_done(route, scope["method"], status, time.monotonic() - started)
            stage: Stage = "reply" if status else "work" if has_body else "upload"
            self._tell_outcome(log_fields(scope).get("outcome"), stage)

    def _tell_outcome(self, outcome: str | None, stage: Stage) -> None:
        if outcome == "client_disconnected":
            self._events.client_disconnected(stage)
        elif outcome is not None:
            self._events.request_failed(outcome)
