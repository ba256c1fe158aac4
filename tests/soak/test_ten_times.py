"""Ten times more work than the server can do, for a minute, from clients that do not wait for one another."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bench.figures import arrivals_s
from tests.conftest import NANO, StartServer, all_samples
from tests.soak.watched import LIMIT_S, Watched, settled, start_watched
from tests.support.http_requests import URL, error_of, form

pytestmark = pytest.mark.slow

MINUTE_S = 60.0
TIMES = 10
PLACES = 8


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    response: httpx.Response
    took_s: float


async def send(client: httpx.AsyncClient, clip: bytes) -> Answer:
    began = time.monotonic()
    response = await client.post(URL, **form(clip))
    return Answer(response, time.monotonic() - began)


async def capacity_of(client: httpx.AsyncClient, clip: bytes) -> float:
    """Return the requests per second that as many clients get done as there are places."""
    began, n_each = time.monotonic(), 3

    async def one() -> None:
        for _ in range(n_each):
            assert (await send(client, clip)).response.status_code == 200

    await asyncio.gather(*(one() for _ in range(PLACES)))
    return PLACES * n_each / (time.monotonic() - began)


@asynccontextmanager
async def probing(client: httpx.AsyncClient) -> AsyncIterator[list[httpx.Response]]:
    """Ask /health over and over while the block runs."""
    probes: list[httpx.Response] = []

    async def probe() -> None:
        while True:
            probes.append(await client.get("/health"))
            await asyncio.sleep(0.2)

    task = asyncio.create_task(probe())
    try:
        yield probes
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task.exception()


async def overload(watched: Watched, clip: bytes) -> tuple[float, list[Answer], list[httpx.Response]]:
    """Return the capacity, what became of ten times as many requests, and what /health said meanwhile."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=watched.server.url, timeout=LIMIT_S, limits=limits, trust_env=False
    ) as client:
        capacity = await capacity_of(client, clip)
        rate = TIMES * capacity
        began, tasks = time.monotonic(), list[asyncio.Task[Answer]]()
        async with probing(client) as probes:
            for at_s in arrivals_s(rate, round(rate * MINUTE_S), seed=17):
                await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
                tasks.append(asyncio.create_task(send(client, clip)))
            answers = list(await asyncio.gather(*tasks))
    return capacity, answers, probes


def test_ten_times_the_capacity_for_a_minute(
    start_server: StartServer, nano_cache: Path, tmp_path: Path
) -> None:
    said = next(sample for sample in all_samples() if sample.name == "en-plain-005.flac")
    watched = start_watched(
        start_server,
        tmp_path,
        *("--model", str(NANO), "--threads", "1", "--queue-requests", str(PLACES)),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
        WHISPER_AUDIO_THREADS="1",
        WHISPER_DECODER_PROCESSES="1",  # a second one would start when two files come at the same moment
    )
    assert httpx.post(f"{watched.server.url}{URL}", timeout=LIMIT_S, **form(said.data)).status_code == 200
    before = watched.held()
    capacity, answers, probes = asyncio.run(overload(watched, said.data))
    served = [answer for answer in answers if answer.response.status_code == 200]
    refused = [answer for answer in answers if answer.response.status_code != 200]
    print(f"{capacity=:.1f}/s offered={len(answers)} served={len(served)} probes={len(probes)}")
    assert {answer.response.json()["text"] for answer in served} == {said.text}
    for answer in refused:
        error_of(answer.response, 429, code="rate_limit_exceeded")
        assert 1 <= int(answer.response.headers["retry-after"]) <= 60
    # It goes on at its own pace, and says no sooner than others say yes; nothing of it depends on a clock.
    assert len(served) > capacity * MINUTE_S / 4
    assert len(refused) > len(served)
    assert median_s(refused) < median_s(served)
    assert {probe.status_code for probe in probes} == {200}
    assert len(probes) > MINUTE_S
    assert settled(watched.held, before) == before
    assert httpx.get(f"{watched.server.url}/ready").status_code == 200
    assert watched.server.stop() == 0
    assert watched.traces() == []


def median_s(answers: list[Answer]) -> float:
    return statistics.median(answer.took_s for answer in answers)
