"""The API on a real Ray cluster of this machine: the same texts, streams, limits, metrics, and lost processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.cluster.conftest import Cluster
from tests.conftest import NANO_MODEL, Sample, all_samples
from tests.support.long_audio import speak_for
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams
from whisper_server.services.container import Services, open_services

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

ROBUST = [sample for sample in all_samples() if sample.is_robust and sample.kind != "translate"]
PATH = "/v1/audio/transcriptions"
LONG_S = 200


@pytest.fixture(scope="module")
def long_audio() -> bytes:
    return speak_for(LONG_S)


@pytest.fixture
async def alone(nano_cache: object) -> AsyncIterator[Services]:
    """One machine's services, with the same model."""
    from tests.conftest import NANO

    settings = Settings(
        _env_file=None, model=str(NANO), cache_dir=nano_cache, threads=1, decoder_processes=0
    )
    async with open_services(settings) as services:
        yield services


async def post(client: httpx.AsyncClient, data: bytes, **fields: str) -> httpx.Response:
    return await client.post(PATH, files={"file": ("a.wav", data)}, data=fields)


async def text_of(client: httpx.AsyncClient, data: bytes) -> str:
    reply = await post(client, data)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["text"]
    return text


async def test_a_long_file_and_clips_beside_it_are_written_as_on_one_machine(
    client: httpx.AsyncClient, alone: Services, long_audio: bytes
) -> None:
    here = await alone.transcriber.transcribe(long_audio, TranscribeParams(NANO_MODEL, word_timestamps=True))
    clips = ROBUST[:8]
    long = asyncio.create_task(
        post(
            client,
            long_audio,
            response_format="verbose_json",
            priority="background",
            **{"timestamp_granularities[]": "word"},
        )
    )
    texts = await asyncio.gather(*(text_of(client, each.data) for each in clips))
    assert [each.strip() for each in texts] == [each.text for each in clips]
    reply = (await long).json()
    assert reply["text"] == here.text
    words = [(word.text, word.start_s, word.end_s) for each in here.segments for word in each.words]
    there = [(each["word"], each["start"], each["end"]) for each in reply["words"]]
    assert [each[0] for each in there] == [each[0] for each in words]
    for (_, start, end), (_, start_s, end_s) in zip(there, words, strict=True):
        assert (start, end) == pytest.approx((start_s, end_s), abs=1e-3)


async def test_a_stream_comes_in_pieces_and_ends_with_the_whole(
    client: httpx.AsyncClient, long_audio: bytes
) -> None:
    deltas, done = [], ""
    async with client.stream(
        "POST", PATH, files={"file": ("a.wav", long_audio)}, data={"stream": "true"}
    ) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
                deltas += [kind] if kind == "transcript.text.delta" else []
                done = kind
    assert len(deltas) > 4
    assert done == "transcript.text.done"


async def test_what_is_wrong_is_said_as_on_one_machine(client: httpx.AsyncClient) -> None:
    reply = await post(client, b"no audio")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "file"
    assert len(reply.headers.get_list("x-request-id")) == 1
    unknown = await post(client, ROBUST[0].data, model="no-such-model")
    assert unknown.status_code == 404


async def test_the_probes_and_the_metrics_are_those_of_the_cluster(client: httpx.AsyncClient) -> None:
    await text_of(client, ROBUST[0].data)
    assert (await client.get("/ready")).status_code == 200
    health = (await client.get("/health")).json()
    assert health["status"] == "ok"
    assert [each["name"] for each in health["models"]] == ["nano-whisper"]
    seen = [counter(await client.get("/metrics"), "whisper_batch_windows_count") for _ in range(6)]
    assert seen == sorted(seen)
    assert seen[0] > 0
    page = (await client.get("/metrics")).text
    assert "whisper_requests_total{" in page
    assert "process_resident_memory_bytes" not in page


def counter(reply: httpx.Response, name: str) -> float:
    found = [line.split()[-1] for line in reply.text.splitlines() if line.startswith(name + " ")]
    return float(found[0])


async def test_a_client_that_leaves_takes_its_windows_off_the_replicas(
    client: httpx.AsyncClient, cluster: Cluster, long_audio: bytes
) -> None:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as other:
        async with other.stream(
            "POST", PATH, files={"file": ("a.wav", long_audio)}, data={"stream": "true"}
        ) as reply:
            async for _ in reply.aiter_lines():
                break
    await until(client, "whisper_queue_requests", 0.0)


async def until(client: httpx.AsyncClient, name: str, value: float) -> None:
    for _ in range(600):
        if counter(await client.get("/metrics"), name) == value:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(name)


@pytest.mark.parametrize("deployment", ["Models", "Front"])
async def test_a_process_that_is_killed_under_load_loses_no_request(
    client: httpx.AsyncClient, cluster: Cluster, deployment: str, long_audio: bytes, alone: Services
) -> None:
    there = cluster.pids(deployment)
    assert len(there) == 2
    here = await alone.transcriber.transcribe(long_audio, TranscribeParams(NANO_MODEL))
    clips = ROBUST * 2
    long = [asyncio.create_task(text_of(client, long_audio)) for _ in range(2)]
    first = asyncio.create_task(text_of(client, clips[0].data))
    await first  # the cluster is at work
    short = [asyncio.create_task(text_of(client, each.data)) for each in clips]
    os.kill(min(there), signal.SIGKILL)
    texts = await asyncio.gather(*short)
    assert [each.strip() for each in texts] == [each.text for each in clips]
    assert await asyncio.gather(*long) == [here.text] * 2


async def test_clips_are_heard_by_both_fronts_and_replicas(
    client: httpx.AsyncClient, cluster: Cluster, speech: Sample
) -> None:
    for _ in range(300):  # those that were killed come back
        if len(cluster.pids("Front")) == len(cluster.pids("Models")) == 2:
            break
        await asyncio.sleep(0.1)
    assert (await text_of(client, speech.data)).strip() == speech.text
