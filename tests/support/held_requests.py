"""Requests inside the server that wait for the device of the fake engine, as long as a test holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.http_requests import URL
from whisper_server.services.engines import fake


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until it is so."""

    async def turns() -> None:
        while not condition():  # noqa: ASYNC110  (no event announces it)
            await asyncio.sleep(0)

    await asyncio.wait_for(turns(), 60)


def inside(client: httpx.AsyncClient) -> tuple[int, float, int]:
    state = client.app.state.services.admission.state()
    return state.requests, state.audio_s, state.upload_bytes


@asynccontextmanager
async def held(client: httpx.AsyncClient, *requests: dict[str, Any]) -> AsyncIterator[list[Any]]:
    """Send requests and stop the device as soon as all are at work; with the end of the block it goes on."""
    fake.GATE.clear()
    tasks: list[Any] = []
    for n, arguments in enumerate(requests, 1):
        tasks.append(asyncio.create_task(client.post(URL, **arguments)))
        await until(lambda n=n: inside(client)[0] == n and inside(client)[1] > 0)  # type: ignore[misc]
    try:
        yield tasks
    finally:
        fake.GATE.set()
        await asyncio.gather(*tasks)
