"""An application in the process of the test, and a client that talks to it without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx

from whisper_server.api.app import create_app
from whisper_server.core.config import Settings

MakeSettings = Callable[..., Settings]
OpenClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def client_of(app_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application and its lifespan; yield a client that talks to it without a socket."""
    app = create_app(app_settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        client.app = app
        yield client
