"""The API on a real Ray cluster of this machine: texts, streams, limits, metrics, and lost processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cluster.conftest import (
    QUEUE_REQUESTS,
    Cluster,
    another_machine,
    command,
    config,
    end_all,
    environment_of,
    replicas_below,
)
from tests.conftest import NANO, NANO_MODEL, all_samples
from tests.support.long_audio import speak_for
from tests.support.realtime_client import pcm16, session
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams, Transcript
from whisper_server.services.container import open_services

pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt")

pytestmark = pytest.mark.cluster

CLIPS = [sample for sample in all_samples() if sample.is_robust and sample.kind == "plain"]
PATH = "/v1/audio/transcriptions"
LONG_S = 120
DECODED = "whisper_batch_windows_count"


@pytest.fixture(scope="module")
def long_audio() -> bytes:
    return speak_for(LONG_S)


@pytest.fixture(scope="module")
def alone(nano_cache: Path, long_audio: bytes) -> Transcript:
    """What one machine writes of the long file, with the same model."""
    settings = Settings(_env_file=None, model=str(NANO), cache_dir=nano_cache, threads=1, decoder_processes=0)

    async def transcribe() -> Transcript:
        async with open_services(settings) as services:
            params = TranscribeParams(NANO_MODEL, word_timestamps=True)
            return await services.transcriber.transcribe(long_audio, params)

    return asyncio.run(transcribe())


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=240) as opened:
        yield opened


async def post(client: httpx.AsyncClient, data: bytes, **fields: str) -> httpx.Response:
    return await client.post(PATH, files={"file": ("a.wav", data)}, data=fields)


async def text_of(client: httpx.AsyncClient, data: bytes) -> str:
    reply = await post(client, data)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["text"]
    return text


async def test_a_long_file_and_clips_beside_it_are_written_as_on_one_machine(
    client: httpx.AsyncClient, alone: Transcript, long_audio: bytes
) -> None:
    clips = CLIPS[:4]
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
    assert not long.done()  # the clips have overtaken it
    assert texts == [each.text for each in clips]
    reply = (await long).json()
    assert reply["text"] == alone.text
    words = [word for each in alone.segments for word in each.words]
    assert len(words) > 50
    assert [each["word"] for each in reply["words"]] == [word.text for word in words]
    for each, word in zip(reply["words"], words, strict=True):
        assert (each["start"], each["end"]) == pytest.approx(
            (word.start_s, word.end_s), abs=0.0051
        )  # as rounded


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


def test_live_speech_goes_over_a_web_socket(cluster: Cluster) -> None:
    with session(cluster.url) as live:
        live.update(turn_detection=None)
        live.append(pcm16(CLIPS[0].data))
        live.send("input_audio_buffer.commit")
        assert live.until("transcription.completed")["transcript"] == CLIPS[0].text


async def test_what_is_wrong_is_said_as_on_one_machine(client: httpx.AsyncClient) -> None:
    reply = await post(client, b"no audio")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "file"
    assert len(reply.headers.get_list("x-request-id")) == 1
    large = await post(client, bytes(26 << 20))
    assert large.status_code == 413
    assert "MAX_AUDIO_FILE_SIZE_MB" in large.json()["error"]["message"]
    unknown = await post(client, CLIPS[0].data, model="no-such-model")
    assert unknown.status_code == 404


async def test_the_probes_and_the_metrics_are_those_of_the_cluster(client: httpx.AsyncClient) -> None:
    await text_of(client, CLIPS[0].data)
    assert (await client.get("/ready")).status_code == 200
    health = (await client.get("/health")).json()
    assert health["status"] == "ok"
    assert [each["name"] for each in health["models"]] == ["nano-whisper"]
    seen = [await windows_decoded(client) for _ in range(6)]
    assert seen == sorted(seen)
    assert seen[0] > 0
    page = (await client.get("/metrics")).text
    assert "whisper_requests_total{" in page
    assert "process_resident_memory_bytes" not in page


async def windows_decoded(client: httpx.AsyncClient) -> float:
    return counter(await client.get("/metrics"), DECODED)


def counter(reply: httpx.Response, name: str) -> float:
    found = [line.split()[-1] for line in reply.text.splitlines() if line.startswith(name + " ")]
    return float(found[0])


async def test_a_client_that_leaves_takes_its_windows_off_the_replicas(
    client: httpx.AsyncClient, cluster: Cluster, long_audio: bytes
) -> None:
    async with (
        httpx.AsyncClient(base_url=cluster.url, timeout=120) as other,
        other.stream("POST", PATH, files={"file": ("a.wav", long_audio)}, data={"stream": "true"}) as reply,
    ):
        async for _ in reply.aiter_lines():
            break
    await until(client, "whisper_queue_requests", lambda n: n == 0)


async def until(client: httpx.AsyncClient, name: str, holds: Callable[[float], bool]) -> None:
    for _ in range(600):
        if holds(counter(await client.get("/metrics"), name)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(name)


@pytest.mark.parametrize("deployment", ["Models", "Front"])
async def test_a_process_that_is_killed_under_load_loses_no_request(
    client: httpx.AsyncClient, cluster: Cluster, deployment: str, long_audio: bytes, alone: Transcript
) -> None:
    there = await both(cluster, deployment)
    clips = CLIPS[:8]
    decoded = await windows_decoded(client)
    long = [asyncio.create_task(text_of(client, long_audio)) for _ in range(4)]
    short = [asyncio.create_task(text_of(client, each.data)) for each in clips]
    await until(client, DECODED, lambda n: n >= decoded + 4)  # of some fifty: both are at work
    os.kill(min(there), signal.SIGKILL)
    texts = await asyncio.gather(*short)
    assert texts == [each.text for each in clips]
    assert await asyncio.gather(*long) == [alone.text] * 4
    word = "a replica of nano-whisper is lost" if deployment == "Models" else "a front was lost"
    await logged(cluster, word)


async def logged(cluster: Cluster, words: str) -> None:
    """Wait for a line of the log, which Ray brings a moment later."""
    for _ in range(600):
        if any(words in line for line in cluster.lines):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("".join(cluster.lines[-50:]))


async def both(cluster: Cluster, deployment: str) -> set[int]:
    """Return the two processes of a deployment: one that was killed comes back."""
    return await number_of(cluster, deployment, 2)


async def number_of(cluster: Cluster, deployment: str, n: int) -> set[int]:
    """Return the processes of a deployment, once there are so many."""
    for _ in range(600):
        if len(found := cluster.pids(deployment)) == n:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(cluster.lines[-20:])


async def test_a_stream_whose_front_is_killed_ends_with_an_error(
    client: httpx.AsyncClient, cluster: Cluster, long_audio: bytes
) -> None:
    await both(cluster, "Front")
    kinds: list[str] = []
    async with client.stream(
        "POST", PATH, files={"file": ("a.wav", long_audio)}, data={"stream": "true"}
    ) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                if not kinds:
                    for pid in cluster.pids("Front"):
                        os.kill(pid, signal.SIGKILL)
                kinds.append(line.removeprefix("event: "))
    assert kinds[-1] == "error"


async def test_more_than_the_fronts_take_is_refused_for_a_while(
    client: httpx.AsyncClient, cluster: Cluster
) -> None:
    await both(cluster, "Front")
    n = 3 * QUEUE_REQUESTS
    limits = httpx.Limits(max_connections=n)
    async with httpx.AsyncClient(base_url=cluster.url, timeout=240, limits=limits) as crowd:
        replies = await asyncio.gather(*(post(crowd, CLIPS[0].data) for _ in range(n)))
    refused = [each for each in replies if each.status_code == 429]
    assert refused
    assert len(refused) < n
    assert {each.json()["text"] for each in replies if each.status_code == 200} == {CLIPS[0].text}
    assert all(each.status_code in (200, 429) for each in replies)
    assert all(1 <= int(each.headers["retry-after"]) <= 60 for each in refused)
    assert all(each.json()["error"]["code"] == "rate_limit_exceeded" for each in refused)


def port_of(cluster: Cluster) -> int:
    port = urlsplit(cluster.url).port
    assert port is not None
    return port


async def deploy(cluster: Cluster, content: dict[str, Any], cache: Path) -> None:
    """Run the command again, with another file, on the cluster that runs."""
    process = await asyncio.create_subprocess_exec(
        *command(cluster.folder, content, "--address", cluster.address, "--detach"),
        env=environment_of(cache),
        cwd=cluster.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_a_machine_that_dies_loses_no_request(
    client: httpx.AsyncClient, cluster: Cluster, nano_cache: Path, long_audio: bytes, alone: Transcript
) -> None:
    with another_machine(cluster, nano_cache) as node:
        content = config(port_of(cluster))
        for each in content["applications"][0]["deployments"]:
            each.update(num_replicas=3, max_replicas_per_node=2)
        await deploy(cluster, content, nano_cache)
        for _ in range(600):
            if all(replicas_below(node, name) for name in ("Front", "Models")):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError(cluster.lines[-20:])
        clips = CLIPS[:8]
        decoded = await windows_decoded(client)
        long = [asyncio.create_task(text_of(client, long_audio)) for _ in range(4)]
        short = [asyncio.create_task(text_of(client, each.data)) for each in clips]
        await until(client, DECODED, lambda n: n >= decoded + 4)
        end_all(node)
        assert await asyncio.gather(*short) == [each.text for each in clips]
        assert await asyncio.gather(*long) == [alone.text] * 4


async def test_what_is_scaled_down_finishes_its_requests_first(
    client: httpx.AsyncClient, cluster: Cluster, nano_cache: Path, long_audio: bytes, alone: Transcript
) -> None:
    await deploy(cluster, config(port_of(cluster)), nano_cache)
    await both(cluster, "Front")
    await both(cluster, "Models")
    n_lost = sum("lost" in line for line in cluster.lines)
    long = [asyncio.create_task(text_of(client, long_audio)) for _ in range(4)]
    await text_of(client, CLIPS[0].data)
    await deploy(cluster, config(port_of(cluster), replicas=1), nano_cache)
    assert await asyncio.gather(*long) == [alone.text] * 4
    await number_of(cluster, "Front", 1)
    await number_of(cluster, "Models", 1)
    assert sum("lost" in line for line in cluster.lines) == n_lost
    assert await text_of(client, CLIPS[0].data) == CLIPS[0].text


async def test_windows_that_wait_bring_replicas_and_groups_have_their_own(
    client: httpx.AsyncClient, cluster: Cluster, nano_cache: Path, long_audio: bytes, alone: Transcript
) -> None:
    second = shutil.copytree(NANO, cluster.folder / "second")
    content = config(port_of(cluster), replicas=1)
    (application,) = content["applications"]
    application["args"]["multiplexed"] = True
    application["args"]["settings"]["WHISPER_MODELS"] = f"second={second}"
    application["args"]["models"] = [{"deployment": "Group", "names": ["second"]}]
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1, "upscale_delay_s": 0}
    group = {"name": "Group", "autoscaling_config": scaling, "ray_actor_options": {"num_cpus": 0.1}}
    application["deployments"].append(group)
    await deploy(cluster, content, nano_cache)
    assert len(await number_of(cluster, "Group", 1)) == 1
    long = [asyncio.create_task(post(client, long_audio, model="second")) for _ in range(3)]
    first = await post(client, CLIPS[0].data)  # of the other group, by name
    assert first.json()["text"] == CLIPS[0].text
    assert first.headers["x-whisper-model"] == "nano-whisper"
    await number_of(cluster, "Group", 2)
    assert [reply.json()["text"] for reply in await asyncio.gather(*long)] == [alone.text] * 3
    assert len(cluster.pids("Models")) == 1


async def streamed(client: httpx.AsyncClient, data: bytes, begun: asyncio.Event) -> str:
    """Return the text that ends a stream; tell when its first part is there."""
    text = ""
    fields = {"files": {"file": ("a.wav", data)}, "data": {"stream": "true"}}
    async with client.stream("POST", PATH, **fields) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                begun.set()
                text = json.loads(line.removeprefix("data: ")).get("text", "")
    return text


async def test_the_end_waits_for_requests_and_takes_no_more(
    client: httpx.AsyncClient, cluster: Cluster, long_audio: bytes, alone: Transcript
) -> None:
    """The last one: it ends the cluster."""
    begun = [asyncio.Event() for _ in range(3)]
    long = [asyncio.create_task(streamed(client, long_audio, each)) for each in begun]
    await asyncio.gather(*(each.wait() for each in begun))
    cluster.process.send_signal(signal.SIGTERM)
    while (refused := await post(client, CLIPS[0].data)).status_code == 200:
        continue  # the fronts have not heard of it yet
    assert refused.status_code == 503
    assert "shutting down" in refused.json()["error"]["message"]
    assert await asyncio.gather(*long) == [alone.text] * 3
    assert await asyncio.to_thread(cluster.process.wait, 120) == 0
