"""What was answered is let go at once: no reference cycle keeps its audio until the collector runs."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.asgi_client import StreamingClient
from tests.support.http_requests import URL, form
from tests.support.in_process import OpenClient
from tests.support.long_audio import speak_for
from whisper_server.core.errors import DeviceOutOfMemory, EngineFailure
from whisper_server.core.types import Window
from whisper_server.services.engines import fake

pytestmark = pytest.mark.long

LARGE_BYTES = 100_000  # of an array or of bytes: less is no audio
Kept = Callable[..., list[str]]  # given the bytes that may be left
collect = gc.collect


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """Tell which windows a test left, and what audio unreachable objects hold, but for the client's.

    Nothing is collected by itself, nor where a model is unloaded. Other tests' windows may live on.
    """
    collect()
    earlier = {id(each): each for each in windows()}
    gc.disable()
    monkeypatch.setattr(gc, "collect", lambda: 0)

    def tell(*but: bytes) -> list[str]:
        left = [f"window of {each.duration_s:.1f} s" for each in windows() if id(each) not in earlier]
        large = [each for each in unreachable() if size_of(each) > LARGE_BYTES]
        own = [each for each in large if not any(each is one for one in but)]
        return left + [f"{type(each).__name__} of {size_of(each)} bytes" for each in own]

    yield tell
    gc.enable()


def windows() -> list[Window]:
    return [each for each in gc.get_objects() if isinstance(each, Window)]


def unreachable() -> list[Any]:
    """What only the collector would free, and what that refers to."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        collect()
        return [held for each in gc.garbage for held in (each, *gc.get_referents(each))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def size_of(item: Any) -> int:
    if isinstance(item, np.ndarray):
        return item.nbytes
    return len(item) if isinstance(item, bytes | bytearray | memoryview) else 0


def request(client: httpx.AsyncClient, data: bytes, **fields: str) -> httpx.Request:
    return client.build_request("POST", URL, **form(data, **fields))


@pytest.mark.parametrize("fields", [{}, {"response_format": "verbose_json"}, {"stream": "true"}], ids=str)
async def test_answered_requests(open_client: OpenClient, kept: Kept, fields: dict[str, str]) -> None:
    data = speak_for(70)
    async with open_client() as client:
        asked = [request(client, data, **fields) for _ in range(3)]
        clients = [StreamingClient(one) for one in asked]
        await asyncio.gather(*(one.run(client.app) for one in clients))
        assert [one.status for one in clients] == [200] * 3
    assert kept(data, *(one.content for one in asked)) == []


async def test_a_client_that_left(open_client: OpenClient, kept: Kept) -> None:
    data = speak_for(70)
    async with open_client() as client:
        asked = request(client, data, stream="true")
        leaving: StreamingClient = StreamingClient(asked, lambda _: leaving.left.set())
        await leaving.run(client.app)
        assert not leaving.is_complete
    assert kept(data, asked.content) == []


@pytest.mark.parametrize(
    ("status", "limits", "fields"),
    [
        (400, {"max_audio_seconds": 40}, {}),
        (400, {}, {"temperature": "hot"}),
        (400, {}, {"response_format": "poem"}),
        (404, {}, {"model": "nobody"}),
        (413, {"max_audio_file_size_mb": 1}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_refused_requests(
    open_client: OpenClient,
    kept: Kept,
    status: int,
    limits: dict[str, int],
    fields: dict[str, str],
    stream: str,
) -> None:
    data = speak_for(70)
    async with open_client(**limits) as client:
        asked = request(client, data, stream=stream, **fields)
        refused = StreamingClient(asked)
        await refused.run(client.app)
        assert refused.status == status
    assert kept(data, asked.content) == []


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}], ids=str)
async def test_what_is_no_audio(open_client: OpenClient, kept: Kept, fields: dict[str, str]) -> None:
    data = b"no audio" * 99_999
    async with open_client() as client:
        asked = request(client, data, **fields)
        refused = StreamingClient(asked)
        await refused.run(client.app)
        assert refused.status == 400
    assert kept(data, asked.content) == []


@pytest.mark.parametrize("error", [EngineFailure("broken"), ValueError("bug"), DeviceOutOfMemory("full")])
@pytest.mark.parametrize("fields", [{}, {"stream": "true"}], ids=str)
async def test_a_device_that_fails(
    open_client: OpenClient, kept: Kept, error: Exception, fields: dict[str, str]
) -> None:
    def fail(_n_windows: int) -> None:
        raise error

    data = speak_for(70)
    fake.TRAPS["generate"] = fail
    logging.disable(logging.CRITICAL)  # pytest keeps what is logged
    try:
        async with open_client() as client:
            asked = request(client, data, **fields)
            failing = StreamingClient(asked)
            await failing.run(client.app)
            assert failing.status >= 500
    finally:
        fake.TRAPS.clear()
        logging.disable(logging.NOTSET)
    assert kept(data, asked.content) == []


def test_what_is_kept_is_seen(kept: Kept) -> None:
    cycle: list[Any] = [bytes(LARGE_BYTES + 1)]
    cycle.append(cycle)
    assert kept() == []
    del cycle
    assert kept() == [f"bytes of {LARGE_BYTES + 1} bytes"]
