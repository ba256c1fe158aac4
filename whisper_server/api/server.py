"""argv -> Settings -> uvicorn: starts the server process and ends it.

Cold start is a feature: what stands before the first /health is kept to the settings and uvicorn. The
web framework and everything behind it is imported by the front, on a thread, once the port is bound.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from whisper_server.api.flags import parse_flags
from whisper_server.api.front import Front
from whisper_server.api.sockets import is_loopback, listen, url_of
from whisper_server.core.config import Settings, load_settings
from whisper_server.core.errors import ConfigError, ModelNotFound
from whisper_server.core.logging import configure_logging
from whisper_server.core.process import ensure_streams, leave
from whisper_server.services.catalog import Catalog

if TYPE_CHECKING:
    from socket import socket

    from whisper_server.api.asgi import ASGIApp

BAD_SETTING = 2
CANNOT_START = 1


def run(argv: Sequence[str] | None = None) -> None:
    """Be the command: serve, and end the process."""
    ensure_streams()
    leave(main(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal ends it; return the exit code."""
    try:
        settings = read_settings(argv)
    except ConfigError as error:
        return _fail(str(error), BAD_SETTING)
    configure_logging(settings.log_level)
    try:
        check_exposure(settings)
        sockets = listen(settings.host, settings.port)
    except ConfigError as error:
        return _fail(str(error), BAD_SETTING)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        return _fail(f"cannot listen on {where}: {error.strerror or error}", CANNOT_START)
    for listening in sockets:
        # Not a log line: who asked for port 0 reads it at any LOG_LEVEL.
        sys.stderr.write(f"listening on {url_of(listening)}\n")
    sys.stderr.flush()
    return serve(settings, sockets)


def read_settings(argv: Sequence[str] | None) -> Settings:
    """Return the settings, with flags applied and every model name looked up.

    Raises:
        ConfigError: a value is wrong, or a model to be preloaded is not configured.
    """
    flags = parse_flags(argv)
    settings = load_settings(flags)
    catalog = Catalog(settings)
    # Who names a model on the command line is about to use it.
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
        ConfigError: it would listen beyond loopback without a key, and nobody said that this is wanted.
        OSError: nobody knows the host's name.
    """
    if settings.api_key or settings.allow_unauthenticated or is_loopback(settings.host):
        return
    raise ConfigError(
        f"WHISPER_SERVER_HOST: {settings.host!r} can be reached by other machines. Set WHISPER_API_KEY to a"
        " secret that clients must send, or WHISPER_ALLOW_UNAUTHENTICATED=true to let everybody in."
    )


def serve(settings: Settings, sockets: list[socket]) -> int:
    """Serve on these sockets until a signal comes; return the exit code."""

    from whisper_server.api.protocol import PatientProtocol  # noqa: PLC0415  (not before the port is bound)

    def build() -> ASGIApp:
        from whisper_server.api.app import create_app  # noqa: PLC0415  (see the module)

        app = create_app(settings)
        gc.collect()
        gc.freeze()  # hundreds of thousands of objects that stay: no later collection looks at them
        return app

    def stop() -> None:
        server.should_exit = True

    front = Front(build, on_failure=stop)
    config = uvicorn.Config(
        front,
        loop="asyncio",
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s),
    )
    server = _Server(config)
    asyncio.run(server.serve(sockets=sockets))
    return CANNOT_START if front.has_failed else 0


class _Server(uvicorn.Server):
    """Uvicorn that ends with exit code 0 when asked to, and at once when asked twice."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; uvicorn would raise it once more at the end, and die of it."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully; the second signal ends the process."""
        del sig, frame
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self.should_exit = True


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    run()
