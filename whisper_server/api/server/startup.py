"""Answers /health from the first moment, while the real application is still being imported.

Theory of operation. The web framework takes longer to import than a desktop app waits for a sign of
life. So the server listens with `StartupApp`, whose `build` (imports included) runs on a thread:

    building --> starting --> ready      what `build` returned runs its lifespan; then it gets everything
        \\------------\\----> failed      `on_failure` is called, and the process ends

Until ready, /health and /ready are answered here and everything else waits. `drain`, in any state, ends
the waiting and tells the application, now or once it is ready. The application's lifespan is entered and
left in one task, as its context managers demand. Standard library and core only.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send
from whisper_server.api.errors import send_error
from whisper_server.api.health import PROBES, health_body
from whisper_server.api.middleware.request_log import RequestLogMiddleware
from whisper_server.api.middleware.silent_errors import SilentErrorsMiddleware
from whisper_server.api.middleware.websocket_refusals import WebSocketRefusalMiddleware
from whisper_server.core.errors import ConfigError, ShuttingDown, Unavailable, WhisperServerError
from whisper_server.core.shutdown import SHUTTING_DOWN, Shutdown

log = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0  # of waiting for the application; seconds on any machine in working order


A = TypeVar("A", bound=ASGIApp)


class StartupApp(Generic[A]):
    """An ASGI application that stands in for another one until it is built."""

    def __init__(
        self,
        build: Callable[[], A],
        shutdown: Shutdown,
        *,
        on_failure: Callable[[], None],
        drain_app: Callable[[A], None],
    ) -> None:
        """Take `build`, which blocks; what is to happen if it or the lifespan's start fails; how to drain."""
        self._shutdown = shutdown
        self._build = build
        self._on_failure = on_failure
        self._drain_app = drain_app
        self._app: A | None = None  # set once it is ready
        self._has_begun = False  # the application's lifespan
        self._settled = asyncio.Event()  # ready, failed or draining: nothing to wait for
        self._leave = asyncio.Event()
        named = RequestLogMiddleware(SilentErrorsMiddleware(self._stand_in))
        self._named_stand_in = WebSocketRefusalMiddleware(named)
        self.has_failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Delegate, or stand in."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if self._app is None and scope.get("path") not in PROBES:
            await self._wait()
        if self._app is not None:
            await self._app(scope, receive, send)
        else:
            await self._named_stand_in(scope, receive, send)

    def drain(self) -> None:
        """Refuse new requests and those that wait. Idempotent; needs the event loop's thread."""
        self._shutdown.drain()
        self._settled.set()
        if self._app is not None:
            self._drain_app(self._app)

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._settled.wait(), START_TIMEOUT_S)
        except TimeoutError:
            log.warning("A request waited for the start of the server in vain.")

    async def _stand_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if scope["path"] == "/health":
            await _send_health(send, is_draining=self._shutdown.is_draining)
        elif self._shutdown.is_draining:
            await send_error(send, ShuttingDown(SHUTTING_DOWN))
        else:
            await send_error(send, Unavailable("The server is still starting; try again later."))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be ready at once, and keep the application alive until the server shuts down."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        life = asyncio.create_task(self._live(scope))
        await receive()
        if self._app is None:
            life.cancel()
        self._leave.set()
        await asyncio.wait({life})
        await send({"type": "lifespan.shutdown.complete"})

    async def _live(self, scope: Scope) -> None:
        """Build the application and run its lifespan, from beginning to end."""
        try:
            app = await asyncio.to_thread(self._build)
            await app(scope, self._say_to_app, lambda message: self._hear(app, message))
        except Exception as error:
            if self._app is not None:
                log.exception("The server failed while shutting down.")
            elif isinstance(error, ConfigError | WhisperServerError):
                log.critical("%s", error)
            else:
                log.critical("The server cannot start.", exc_info=error)
            self._fail()

    async def _say_to_app(self) -> Message:
        if not self._has_begun:
            self._has_begun = True
            return {"type": "lifespan.startup"}
        await self._leave.wait()
        return {"type": "lifespan.shutdown"}

    async def _hear(self, app: A, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._app = app
            self._settled.set()
            if self._shutdown.is_draining:
                self._drain_app(app)

    def _fail(self) -> None:
        self._app = None
        self.has_failed = True
        self._settled.set()
        self._on_failure()


async def _send_health(send: Send, *, is_draining: bool) -> None:
    body = json.dumps(health_body(is_draining=is_draining)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
