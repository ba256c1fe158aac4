"""Many requests on one device: the same words as alone, a turn for everybody, and a broken device."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import httpx
import pytest

from tests.conftest import NANO_MODEL, Sample, all_samples
from tests.support.in_process import OpenClient, client_of
from tests.support.long_audio import speak_for
from whisper_server.core.config import Settings
from whisper_server.core.errors import DeviceOutOfMemory
from whisper_server.core.types import TranscribeParams, Transcript
from whisper_server.services.container import Services, open_services
from whisper_server.services.engines import fake

Traps = dict[str, Callable[[int], None]]
ROBUST = [sample for sample in all_samples() if sample.is_robust]


@pytest.fixture
async def services(nano_settings: Settings) -> AsyncIterator[Services]:
    async with open_services(nano_settings.model_copy(update={"threads": 2})) as opened:
        yield opened


def wanted(sample: Sample, number: int) -> TranscribeParams:
    """Ask for something else each time: batches mix languages, tasks, prompts, keywords and word times."""
    return TranscribeParams(
        NANO_MODEL,
        task="translate" if sample.kind == "translate" else "transcribe",
        language=sample.language if number % 3 == 0 else None,
        prompt=sample.prompt,
        keywords=("house", "tree") if number % 5 == 0 and sample.language == "en" else (),
        word_timestamps=number % 2 == 0,
        priority="interactive" if number % 4 == 0 else "normal",
    )


@pytest.mark.long
@pytest.mark.parametrize("threads", [2, 4], ids=["one window a call", "batches"])
async def test_sixteen_at_once_get_what_each_gets_alone(nano_settings: Settings, threads: int) -> None:
    async with open_services(nano_settings.model_copy(update={"threads": threads})) as services:
        await sixteen_at_once(services)
        async with services.models.lease(NANO_MODEL) as model:
            assert (model.engine.info.max_batch > 1) == (threads > 2)


async def sixteen_at_once(services: Services) -> None:
    requests = [(sample.data, wanted(sample, number)) for number, sample in enumerate(ROBUST)]
    alone = [await services.transcriber.transcribe(*request) for request in requests]
    order = list(range(len(requests)))
    random.Random(4).shuffle(order)
    places = asyncio.Semaphore(16)

    async def one(number: int) -> tuple[int, Transcript]:
        async with places:
            return number, await services.transcriber.transcribe(*requests[number])

    crowd = dict(await asyncio.gather(*map(one, order)))
    assert [crowd[number].text for number in sorted(order)] == [each.text for each in alone]
    assert [times(crowd[number]) for number in sorted(order)] == [times(each) for each in alone]


def times(transcript: Transcript) -> list[tuple[float, float, list[tuple[float, float]]]]:
    return [(s.start_s, s.end_s, [(w.start_s, w.end_s) for w in s.words]) for s in transcript.segments]


@pytest.mark.long
async def test_draws_are_the_same_alone_in_a_crowd_and_after_a_restart(nano_settings: Settings) -> None:
    async def texts(client: httpx.AsyncClient, *requests: tuple[Sample, str]) -> list[str]:
        return await asyncio.gather(*[drawn(client, sample, seed) for sample, seed in requests])

    requests = [(sample, str(seed)) for sample in ROBUST[:2] for seed in range(-2, 3)]
    async with client_of(nano_settings) as client:
        alone = [await drawn(client, *request) for request in requests]
        assert await texts(client, *requests[::-1]) == alone[::-1]
        assert len(set(alone[:5])) > 1, "the seed has no say"
    async with client_of(nano_settings) as client:
        crowd = await texts(client, *requests[5:], *requests)
        assert crowd == alone[5:] + alone
        sample, seed = requests[0]
        body = {"audio": base64.b64encode(sample.data).decode(), "temperature": 1, "seed": int(seed)}
        response = await client.post("/v1/audio/transcriptions", json=body)
        assert response.json()["text"] == alone[0]


async def drawn(client: httpx.AsyncClient, sample: Sample, seed: str) -> str:
    form = {"temperature": "1", "seed": seed}
    response = await client.post("/v1/audio/transcriptions", files={"file": sample.data}, data=form)
    assert response.status_code == 200, response.text
    text: str = response.json()["text"]
    return text


async def test_a_clip_behind_a_long_file_is_answered_within_a_few_batches(
    services: Services, speech: Sample
) -> None:
    long = await services.transcriber.open(speak_for(700), TranscribeParams(NANO_MODEL))
    async with contextlib.aclosing(long.segments()) as segments:
        await anext(segments)
        reading = asyncio.create_task(_exhaust(segments))
        before = long.windows_done
        clip = await services.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL))
        meanwhile = long.windows_done - before
        assert clip.text == speech.text
        assert not reading.done()
        reading.cancel()
        await asyncio.wait({reading})
    async with services.models.lease(NANO_MODEL) as model:
        info = model.engine.info
        assert meanwhile <= 3 * info.max_batch * info.workers
        assert model.scheduler.ahead == 2 * info.max_batch * info.workers, "the stream is closed"


async def _exhaust(segments: AsyncIterator[object]) -> None:
    async for _ in segments:
        pass


@pytest.fixture
def traps() -> Iterator[Traps]:
    yield fake.TRAPS
    fake.TRAPS.clear()


def post(client: httpx.AsyncClient, speech: Sample) -> asyncio.Task[httpx.Response]:
    form = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    return asyncio.create_task(
        client.post("/v1/audio/transcriptions", files={"file": speech.data}, data=form)
    )


@pytest.mark.parametrize("stage", ["encode", "detect_language", "generate", "align"])
async def test_running_out_of_memory_is_no_error_for_anybody(
    client: httpx.AsyncClient, speech: Sample, traps: Traps, stage: str
) -> None:
    def too_many(n_windows: int) -> None:
        if n_windows > 1:
            raise DeviceOutOfMemory("no room")

    traps[stage] = too_many
    replies = await asyncio.gather(*[post(client, speech) for _ in range(12)])
    assert {reply.status_code for reply in replies} == {200}


async def test_a_model_that_cannot_be_made_anew_is_loaded_by_the_next_request(
    open_client: OpenClient,
    speech: Sample,
    traps: Traps,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(_n_windows: int) -> None:
        traps.clear()
        raise SystemExit

    async with open_client() as client:
        assert (await post(client, speech)).status_code == 200
        traps["encode"] = dies
        with monkeypatch.context() as patch:
            patch.delattr(fake, "load")
            replies = await asyncio.gather(*[post(client, speech) for _ in range(6)])
            assert {reply.status_code for reply in replies} <= {500, 503}
        assert (await post(client, speech)).status_code == 200
        assert (await client.get("/health")).json()["status"] == "ok"


def test_params_of_the_crowd_differ() -> None:
    kinds = {replace(wanted(sample, number), prompt="") for number, sample in enumerate(ROBUST)}
    assert len(kinds) > 8
