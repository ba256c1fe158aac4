"""The startup app, which answers /health before the application is there."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import httpx
import pytest

from whisper_server.api.server.startup import StartupApp
from whisper_server.core.errors import ConfigError, Unavailable
from whisper_server.core.shutdown import Shutdown


async def test_startup_stands_in_and_then_steps_aside() -> None:
    may_build = threading.Event()
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            await send({"type": "lifespan.shutdown.complete"})
            seen.append("left")
        else:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def build() -> Any:
        may_build.wait()
        return app

    startup = StartupApp(
        build, Shutdown(), on_failure=lambda: seen.append("failed"), drain_app=lambda _: None
    )
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(startup({"type": "lifespan", "state": {}}, events.get, answers.put))
    await events.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(startup)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/health")).json()["models"] == []
        assert (await client.get("/ready")).status_code == 503
        waiting = asyncio.create_task(client.get("/v1/models"))
        may_build.set()
        assert (await waiting).status_code == 204
        assert (await client.get("/health")).status_code == 204
    await events.put({"type": "lifespan.shutdown"})
    await life
    assert seen == ["lifespan", "http", "http", "left"]
    assert not startup.has_failed


@pytest.mark.parametrize("error", [RuntimeError("broken"), ConfigError("broken"), Unavailable("broken")])
async def test_startup_that_cannot_build_says_so_once(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Our own errors need no traceback: each says what is wrong."""

    def build() -> Any:
        raise error

    stop = asyncio.Event()
    startup = StartupApp(build, Shutdown(), on_failure=stop.set, drain_app=lambda _: None)
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(startup({"type": "lifespan", "state": {}}, events.get, answers.put))
    await events.put({"type": "lifespan.startup"})
    await stop.wait()
    assert startup.has_failed
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(startup), base_url="http://localhost"
    ) as client:
        response = await client.get("/v1/models")
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"
    await events.put({"type": "lifespan.shutdown"})
    await life
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    text = logging.Formatter().format(record)
    assert "broken" in text
    assert ("Traceback" in text) == (not isinstance(error, ConfigError | Unavailable))


async def test_startup_that_drains_ends_the_waiting_and_tells_the_application_once_it_is_there() -> None:
    may_build = threading.Event()
    is_drained = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    def build() -> Any:
        may_build.wait()
        return app

    startup = StartupApp(build, Shutdown(), on_failure=lambda: None, drain_app=lambda _: is_drained.set())
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(startup({"type": "lifespan", "state": {}}, events.get, answers.put))
    await events.put({"type": "lifespan.startup"})
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(startup), base_url="http://localhost"
    ) as client:
        assert (await client.get("/health")).json()["status"] == "ok"
        waiting = asyncio.create_task(client.get("/v1/models"))
        startup.drain()
        for response in (await waiting, await client.get("/v1/models"), await client.get("/ready")):
            assert response.status_code == 503
            assert "shutting down" in response.json()["error"]["message"]
            assert response.headers["connection"] == "close"
        assert (await client.get("/health")).json()["status"] == "stopping"
    may_build.set()
    await is_drained.wait()
    await events.put({"type": "lifespan.shutdown"})
    await life
