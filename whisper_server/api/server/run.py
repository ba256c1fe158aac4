"""argv -> Settings -> uvicorn: starts the server process and ends it.

Cold start is a feature: what stands before the first /health is kept to the settings and uvicorn. The
web framework and everything behind it is imported by the startup app, on a thread, once the port is bound.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from whisper_server.api.server.flags import parse_flags
from whisper_server.api.server.loop_errors import LoopErrors
from whisper_server.api.server.parent_exit import open_watches, watching
from whisper_server.api.server.sockets import BACKLOG, RESERVED_CONNECTIONS, is_loopback, listen, url_of
from whisper_server.api.server.startup import StartupApp
from whisper_server.core.config import Settings, load_settings, log_notices
from whisper_server.core.errors import ConfigError, ModelNotFound
from whisper_server.core.logging import configure_logging, flush_log
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.system.loop_watch import LoopWatch
from whisper_server.core.system.process import (
    allow_open_files,
    end_signals,
    ensure_streams,
    leave,
)
from whisper_server.services.model_files.catalog import Catalog

if TYPE_CHECKING:
    from socket import socket

    from fastapi import FastAPI

    from whisper_server.core.system.process_watch import Watch

log = logging.getLogger(__name__)

# One WebSocket message: 15 MiB of sound, as the hosted API has it, in base64.
MAX_EVENT_BYTES = 21 << 20
BAD_SETTING = 2
CANNOT_START = 1
OTHER_FILES = 256  # models, audio libraries, pipes; beside connections
# A key press reaches the one-file program twice: from the terminal and from its unpacking parent.
ECHO_S = 0.5 if hasattr(sys, "frozen") else 0.0

_LAST_WORDS_S = 1.0  # for a request that is cut short to say so, and for its client to hear it
# Of connections in one round of the event loop. A burst of them must not come before the requests of those
# that were accepted before it: see RESERVED_CONNECTIONS. asyncio logs as many errors where no file can be
# opened.
_ACCEPTED_AT_ONCE = 16


def run(argv: Sequence[str] | None = None) -> None:
    """Be the command: serve, and end the process; `init_process.begin` comes before."""
    ensure_streams()
    leave(main(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal ends it; return the exit code."""
    parent_pid = os.getppid()  # first of all: it changes when the parent ends
    try:
        settings = read_settings(argv)
    except ConfigError as error:
        return _fail(str(error), BAD_SETTING)
    configure_logging(settings.log_level)
    log_notices(settings)
    try:
        check_exposure(settings)
        watches = open_watches(settings, parent_pid)
        sockets = listen(settings.host, settings.port)
        wyoming = _wyoming_sockets(settings)
    except ConfigError as error:
        return _fail(str(error), BAD_SETTING)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        return _fail(f"cannot listen on {where}: {error.strerror or error}", CANNOT_START)
    connections = connections_of(settings)
    for listening in sockets:
        # Not a log line: a caller that asked for port 0 reads it at any LOG_LEVEL.
        sys.stderr.write(f"listening on {url_of(listening)}\n")
    for listening in wyoming:
        sys.stderr.write(f"listening on {url_of(listening, 'tcp')}\n")
    flush_log()  # an app waits for it, and the imports that begin now leave other threads little time
    return serve(settings, sockets, watches, connections, wyoming)


def read_settings(argv: Sequence[str] | None) -> Settings:
    """Return the settings, with flags applied and every model name looked up.

    Raises:
        ConfigError: a value is wrong, or a model to be preloaded is not configured.
    """
    flags = parse_flags(argv)
    settings = load_settings(flags)
    catalog = Catalog(settings)
    # A model that is named on the command line is about to be used.
    wanted = (*settings.preload, *([catalog.default] if "model" in flags else []))
    try:
        for name in wanted:
            catalog.resolve(name)
    except ModelNotFound as error:
        raise ConfigError(f"WHISPER_PRELOAD: {error}") from error
    return settings.model_copy(update={"preload": tuple(dict.fromkeys(wanted))})


def check_exposure(settings: Settings) -> None:
    """Check that other machines cannot use the server by accident.

    Raises:
        ConfigError: it would listen beyond loopback without a key, and no setting says that this is wanted.
        OSError: the host's name cannot be resolved.
    """
    if settings.allow_unauthenticated:
        return
    if settings.wyoming_port and not is_loopback(settings.wyoming_host):
        raise ConfigError(
            f"WHISPER_WYOMING_HOST: {settings.wyoming_host!r} can be reached by other machines, and the"
            " Wyoming protocol has no key. Set WHISPER_ALLOW_UNAUTHENTICATED=true to let everybody in."
        )
    if settings.api_key or is_loopback(settings.host):
        return
    raise ConfigError(
        f"WHISPER_SERVER_HOST: {settings.host!r} can be reached by other machines. Set WHISPER_API_KEY to a"
        " secret that clients must send, or WHISPER_ALLOW_UNAUTHENTICATED=true to let everybody in."
    )


def _wyoming_sockets(settings: Settings) -> list[socket]:
    """Return the sockets of the Wyoming port, none where it is off; raises `ConfigError`."""
    if not settings.wyoming_port:
        return []
    try:
        return listen(settings.wyoming_host, settings.wyoming_port)
    except OSError as error:
        where = f"{settings.wyoming_host}:{settings.wyoming_port}"
        raise ConfigError(
            f"WHISPER_WYOMING_PORT: cannot listen on {where}: {error.strerror or error}"
        ) from error


def connections_of(settings: Settings) -> tuple[int, int]:
    """Return how many connections there may be, and how many beside them for request headers.

    Each needs a descriptor. Where the system allows fewer than are wanted, the log says so: without any left
    nothing could be accepted, not even `/health`.
    """
    wanted = settings.connection_limit
    reserved = min(RESERVED_CONNECTIONS, wanted // 2)
    other = OTHER_FILES + (wanted if settings.wyoming_port else 0)  # that port has as many
    allowed = allow_open_files(wanted + reserved + other)
    places = max(allowed - other, allowed // 3)
    if places >= wanted + reserved:
        return wanted, reserved
    reserved = min(reserved, places // 4)
    connections = max(1, places - reserved)
    log.warning(
        "%d connections at once, not %d: the system allows %d open files (`ulimit -Hn`)",
        connections,
        wanted,
        allowed,
    )
    return connections, reserved


def serve(
    settings: Settings,
    sockets: list[socket],
    watches: Mapping[int, Watch],
    connections: tuple[int, int],
    wyoming: Sequence[socket] = (),
) -> int:
    """Serve on these sockets until a signal comes or a watched process ends; return the exit code."""

    # Not before the port is bound.
    from whisper_server.api.server.live_protocol import live_protocol_of  # noqa: PLC0415
    from whisper_server.api.server.protocol import protocol_of  # noqa: PLC0415

    def build() -> FastAPI:
        from whisper_server.api.app import create_app  # noqa: PLC0415  (see the module)

        app = create_app(settings, shutdown=shutdown, wyoming=wyoming)
        gc.collect()
        gc.freeze()  # hundreds of thousands of objects that stay: no later collection looks at them
        return app

    def stop() -> None:
        server.should_exit = True

    limit, reserved = connections
    shutdown = Shutdown()
    startup = StartupApp(build, shutdown, on_failure=stop, drain_app=lambda app: app.state.drain())
    protocols = protocol_of(settings, limit, reserved), live_protocol_of(settings)
    config = _config(startup, *protocols, max(1, reserved // 4))
    server = _Server(config, startup.drain, settings.shutdown_grace_s)

    def end() -> None:
        flush_log()
        os._exit(CANNOT_START)

    async def live() -> None:
        asyncio.get_running_loop().set_exception_handler(LoopErrors())
        watch = LoopWatch(end_signals(), end)
        watch.start()
        try:
            with watching(watches, server.stop):
                await server.serve(sockets=sockets)
        finally:
            watch.stop()

    _run(live())
    return CANNOT_START if startup.has_failed else 0


def _run(main: Coroutine[None, None, None]) -> None:
    """Do what `asyncio.run` does, also where the thread that closing its loop takes cannot be started."""
    has_ended = False

    async def run() -> None:
        nonlocal has_ended
        await main
        has_ended = True

    try:
        asyncio.run(run())
    except RuntimeError:
        if not has_ended:
            raise
        log.warning("The event loop is left as it is: no thread can be started to close it.")


def _config(
    startup: StartupApp[FastAPI],
    http: type[asyncio.Protocol],
    ws: type[asyncio.Protocol],
    accepted_at_once: int,
) -> uvicorn.Config:
    return uvicorn.Config(
        startup,
        loop="asyncio",
        http=http,
        ws=ws,
        ws_max_size=MAX_EVENT_BYTES,
        ws_per_message_deflate=False,  # sound does not get smaller, and an inflated bomb does
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=min(_ACCEPTED_AT_ONCE, accepted_at_once),
    )


class _Server(uvicorn.Server):
    """Uvicorn that ends in order, with exit code 0, when asked to, and at once when asked twice.

    Asked to, it takes no new work from that moment on: connections are accepted for the tenth of a second
    until uvicorn looks, then the sockets close and the port is free for a successor; there and on connections
    that are open, until the last request is done, /ready says no and new work gets its 503. What has
    begun may finish within the grace period, then it is cancelled, and `ErrorMiddleware` says so.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], grace_s: float) -> None:
        """Take `drain`, which lets nothing new begin; it may be called more than once."""
        super().__init__(config)
        self._drain = drain
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Serve; asyncio has one number for how many may wait and how many are accepted at once."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)

    def stop(self) -> None:
        """Begin the end. Idempotent; needs the event loop's thread."""
        self.should_exit = True
        self._drain()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; uvicorn would raise it once more at the end, and die of it."""
        loop = asyncio.get_running_loop()
        numbers = end_signals()

        def from_now_on(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
            for number in numbers:
                signal.signal(number, handler)

        def stop_or_end(_number: int, _frame: FrameType | None) -> None:
            from_now_on(signal.SIG_IGN if ECHO_S else signal.SIG_DFL)
            loop.call_soon_threadsafe(self.stop)
            if ECHO_S:
                loop.call_soon_threadsafe(loop.call_later, ECHO_S, from_now_on, signal.SIG_DFL)

        before = {number: signal.signal(number, stop_or_end) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop listening, let what runs finish, and end the rest with an answer."""
        self._drain()
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        deadline = time.monotonic() + self._grace_s
        while self.server_state.tasks and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(set(self.server_state.tasks), timeout=left_s)
        late = set(self.server_state.tasks)
        if late:
            log.warning("%d requests are cut short: the grace period is over", len(late))
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_LAST_WORDS_S)
        # What is left is for clients to take their replies; uvicorn waits and then closes everything.
        left_s = max(deadline - time.monotonic(), _LAST_WORDS_S)
        self.config.timeout_graceful_shutdown = math.ceil(left_s)
        await super().shutdown(sockets)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
