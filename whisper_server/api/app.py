"""The web application: routes, middleware and the lifespan that opens the services."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from socket import socket

from fastapi import FastAPI
from starlette.middleware import Middleware

from whisper_server import __version__
from whisper_server.api import docs_page, web_page
from whisper_server.api.deps import MODEL_HEADER
from whisper_server.api.framework_errors import install_handlers
from whisper_server.api.middleware.addresses import AddressMiddleware
from whisper_server.api.middleware.auth import AuthMiddleware
from whisper_server.api.middleware.body_limit import BodyLimitMiddleware
from whisper_server.api.middleware.cors import CorsMiddleware
from whisper_server.api.middleware.errors import ErrorMiddleware
from whisper_server.api.middleware.head import HeadMiddleware
from whisper_server.api.middleware.host_check import HostCheckMiddleware
from whisper_server.api.middleware.path_check import PathCheckMiddleware
from whisper_server.api.middleware.request_log import RequestLogMiddleware
from whisper_server.api.middleware.silent_errors import SilentErrorsMiddleware
from whisper_server.api.middleware.upload_timeout import UploadTimeoutMiddleware
from whisper_server.api.middleware.websocket_refusals import WebSocketRefusalMiddleware
from whisper_server.api.min_rate import TransferTimeout
from whisper_server.api.models import ErrorBody
from whisper_server.api.openapi import install_document
from whisper_server.api.requests.read import body_limit
from whisper_server.api.routes import router
from whisper_server.core.config import Settings
from whisper_server.core.errors import WhisperServerError
from whisper_server.core.events import Events
from whisper_server.core.metrics import Metrics  # here, because this module is imported on a thread
from whisper_server.core.settings.origins import matcher
from whisper_server.core.shutdown import Shutdown
from whisper_server.services.container import RemoteModels, Services, open_services

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    *,
    services: Services | None = None,
    shutdown: Shutdown | None = None,
    wyoming: Sequence[socket] = (),
    remote: RemoteModels | None = None,
) -> FastAPI:
    """Make the application; it opens its own services unless it is lent some.

    Its own take no new work from the moment at which `shutdown` drains. On the sockets `wyoming` Home
    Assistant is served with the same services. Where models are `remote`, its own services use those.

    Raises:
        ConfigError: when its lifespan starts, a setting names something that is not there.
        WhisperServerError: also then, there is too little memory, or voice detection cannot be loaded.
    """
    events = services.metrics if services else (remote and remote.metrics) or Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        lent = nullcontext(services) if services else open_services(settings, events, shutdown, remote)
        async with lent as opened, _at_work(app, opened, settings, wyoming):
            yield

    app = FastAPI(
        title="whisper-server",
        version=__version__,
        description="Speech to text on your own machine, with OpenAI's audio API.",
        lifespan=lifespan,
        middleware=_middleware(settings, events),
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
        generate_unique_id_function=lambda route: route.name,  # what generated clients call their functions
        redirect_slashes=False,
        docs_url=None,  # the framework's own loads its scripts from the web
        redoc_url=None,
    )
    _install(app, settings)
    return app


@contextlib.asynccontextmanager
async def _at_work(
    app: FastAPI, services: Services, settings: Settings, wyoming: Sequence[socket]
) -> AsyncIterator[None]:
    """Begin all that goes on beside requests, and what these need of `app.state`; end it."""
    app.state.services = services
    app.state.preloading = asyncio.create_task(_preload(services, settings))
    async with _cancelled_at_the_end(app.state.preloading):
        await services.warm_up()  # until then requests wait, and nothing of uploads is in memory
        async with _wyoming(services, wyoming) as drain_wyoming:

            def drain() -> None:
                services.drain()
                drain_wyoming()

            app.state.drain = drain
            services.jobs.start()
            yield


@contextlib.asynccontextmanager
async def _cancelled_at_the_end(task: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def _install(app: FastAPI, settings: Settings) -> None:
    """Give the application its routes, what it says of errors, and its document."""
    app.include_router(router)
    if settings.web:
        app.include_router(web_page.router)
    app.include_router(docs_page.router)
    install_handlers(app)
    install_document(app, needs_key=bool(settings.api_key))


@contextlib.asynccontextmanager
async def _wyoming(services: Services, sockets: Sequence[socket]) -> AsyncIterator[Callable[[], None]]:
    """Serve Home Assistant on the sockets, if any; yield what lets nothing new begin there."""
    if not sockets:
        yield lambda: None
        return
    from whisper_server.wyoming.server import serving  # noqa: PLC0415  (most servers have no such port)

    async with serving(services, sockets) as server:
        yield server.drain


def _middleware(settings: Settings, events: Events) -> list[Middleware]:
    """Return the middleware, outermost first; each comment says why an entry stands where it does."""
    origins = matcher(settings.allowed_origins)
    return [
        # Around everything, for what refuses a WebSocket's handshake with a reply.
        Middleware(WebSocketRefusalMiddleware),
        # Before all that reads the path: what follows knows our own addresses only.
        Middleware(AddressMiddleware),
        # Around the rest: whatever becomes of a request, it has a name, a line in the log and a count.
        Middleware(RequestLogMiddleware, events=events),
        # Around all that sends errors.
        Middleware(SilentErrorsMiddleware),
        # Before anything reads the body. Its error is answered by the last entry, as a missing slot is: the
        # client is still sending then, and hears an answer only if its body is read on.
        Middleware(
            UploadTimeoutMiddleware,
            timeout=TransferTimeout(settings.stall_timeout_s, settings.min_bytes_per_s),
        ),
        # Around the errors, so that a page may read them; before the key, which a preflight does not carry.
        Middleware(
            CorsMiddleware,
            origins=origins,
            exposed=("x-request-id", MODEL_HEADER, "retry-after", "x-should-retry"),
        ),
        # Around all that raises: the checks below, and the routes.
        Middleware(ErrorMiddleware),
        # Before the key: a page that must not use this server is refused whatever it carries.
        Middleware(
            HostCheckMiddleware,
            own_host=settings.host,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=origins,
        ),
        # Before the body: without the key nothing of it is read.
        Middleware(AuthMiddleware, api_key=settings.api_key, shows_page=settings.web),
        # Before the routes, whose patterns are not strict about it.
        Middleware(PathCheckMiddleware),
        # Last, when it is clear that the request is welcome, but before anything parses its body.
        Middleware(
            BodyLimitMiddleware,
            limit_of=partial(body_limit, settings=settings),
        ),
        # Nearest to the routes, which know GET alone; the server leaves out the bodies of refusals above.
        Middleware(HeadMiddleware),
    ]


async def _preload(services: Services, settings: Settings) -> None:
    """Load the models of WHISPER_PRELOAD; one that fails is tried again by its first request."""
    for name in settings.preload:
        with contextlib.suppress(WhisperServerError):  # the manager has logged it
            async with services.models.lease(services.catalog.resolve(name)):
                log.info("model %s is preloaded", name)
