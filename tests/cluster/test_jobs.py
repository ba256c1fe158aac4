"""Jobs of two fronts with one PostgreSQL: either tells of them, and takes up what the other one leaves."""

from __future__ import annotations

import asyncio
import copy
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.cluster.conftest import (
    Cluster,
    another_machine,
    config,
    end_all,
    free_port,
    replicas_below,
    running,
)
from tests.cluster.test_cluster import both, deploy, number_of, port_of, text_of, windows_decoded
from tests.conftest import NANO, NANO_MODEL
from tests.support.job_requests import JOBS, result_of, submit, until_end
from tests.support.long_audio import speak_for
from tests.support.postgres import new_database
from tests.support.waiting import wait_until
from whisper_server.cluster.board import REPORT_S
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams, Transcript
from whisper_server.services.container import open_services

pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt")

pytestmark = pytest.mark.cluster

LONG_S = 300
UNDER_WAY = 8  # windows of a job that may be decoded and not stored when its front is lost


@pytest.fixture(scope="module")
def long_audio() -> bytes:
    return speak_for(LONG_S)


@pytest.fixture(scope="module")
def alone(nano_cache: Path, long_audio: bytes) -> Transcript:
    """What one process writes of the file."""
    settings = Settings(_env_file=None, model=str(NANO), cache_dir=nano_cache, threads=1, decoder_processes=0)

    async def transcribe() -> Transcript:
        async with open_services(settings) as services:
            params = TranscribeParams(NANO_MODEL, word_timestamps=True)
            return await services.transcriber.transcribe(long_audio, params)

    return asyncio.run(transcribe())


@pytest.fixture(scope="module")
def content(postgres_server: Path) -> dict[str, Any]:
    made = config(free_port())
    made["applications"][0]["args"]["settings"]["WHISPER_JOB_STORE"] = new_database(postgres_server)
    return made


@pytest.fixture(scope="module")
def jobs_cluster(
    tmp_path_factory: pytest.TempPathFactory, nano_cache: Path, content: dict[str, Any]
) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("jobs"), content, nano_cache) as started:
        yield started


@pytest.fixture
async def client(jobs_cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=jobs_cluster.url, timeout=240) as opened:
        yield opened


def rows(content: dict[str, Any], job_id: str) -> tuple[str | None, int]:
    """Return the owner of a job, and how often it was taken up from one that had not given it back."""
    import psycopg

    url = content["applications"][0]["args"]["settings"]["WHISPER_JOB_STORE"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT owner, taken FROM whisper_jobs WHERE id = %s", (job_id,)
        ).fetchone()
    assert found is not None
    return found[0], found[1]


async def all_decoded(client: httpx.AsyncClient) -> float:
    """Return how many windows were decoded so far, when replicas have reported their last ones."""
    await asyncio.sleep(2.5 * REPORT_S)
    return await windows_decoded(client)


async def half_done(client: httpx.AsyncClient, job_id: str) -> None:
    """Wait until some of a job is stored."""
    for _ in range(2400):
        job = (await client.get(f"{JOBS}/{job_id}")).json()
        assert job["status"] in ("validating", "in_progress"), job
        if job["seconds_done"] > LONG_S / 4:
            assert job["seconds_done"] < LONG_S * 3 / 4
            return
        await asyncio.sleep(0.02)
    raise AssertionError(job)


def is_below(folder: Path, owner: str) -> bool:
    """Tell whether an owner's lock is in this cache folder."""
    return any(folder.rglob(f"{owner}*"))


def front_of(cluster: Cluster, owner: str | None) -> int:
    """Return the process that holds the lock of an owner of jobs."""
    (found,) = [
        pid
        for pid in cluster.pids("Front")
        if any(owner and owner in file.path for file in psutil.Process(pid).open_files())
    ]
    return found


def fronts_with(cluster: Cluster, words: str) -> set[int]:
    """Return the fronts that have logged this."""
    found = (re.search(r"Front pid=(\d+)", line) for line in cluster.lines if words in line)
    return {int(each[1]) for each in found if each}


async def check_result(client: httpx.AsyncClient, job_id: str, alone: Transcript) -> None:
    """Compare a result with that of one process, to the times of words."""
    for _ in range(4):  # of both fronts
        reply = (await result_of(client, job_id, response_format="verbose_json")).json()
        assert reply["text"] == alone.text
        assert [each["text"] for each in reply["segments"]] == [each.text for each in alone.segments]
    query = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    said = (await result_of(client, job_id, **query)).json()["words"]
    words = [word for each in alone.segments for word in each.words]
    assert [(each["word"], each["start"], each["end"]) for each in said] == [
        (word.text, pytest.approx(word.start_s, abs=0.0051), pytest.approx(word.end_s, abs=0.0051))
        for word in words
    ]


async def test_either_front_tells_of_a_job_and_has_its_result(
    client: httpx.AsyncClient, jobs_cluster: Cluster, long_audio: bytes, alone: Transcript
) -> None:
    await both(jobs_cluster, "Front")
    job = await submit(client, long_audio)
    ended = asyncio.create_task(until_end(client, job["id"]))
    seen: list[float] = []
    while not ended.done():
        now = (await client.get(f"{JOBS}/{job['id']}")).json()
        assert now["id"] == job["id"]
        seen.append(now["seconds_done"])
        await asyncio.sleep(0.02)
    assert (await ended)["status"] == "completed"
    assert len(seen) > 20
    assert seen == sorted(seen)
    await check_result(client, job["id"], alone)
    listed = [(await client.get(JOBS)).json()["data"] for _ in range(8)]
    assert all([each["id"] for each in page] == [job["id"]] for page in listed)
    assert len(fronts_with(jobs_cluster, "/v1/jobs/{job_id}")) == 2
    assert len(fronts_with(jobs_cluster, f"job {job['id']} begins")) == 1


async def test_a_job_whose_front_is_killed_is_taken_up_by_another_one(
    client: httpx.AsyncClient,
    jobs_cluster: Cluster,
    content: dict[str, Any],
    long_audio: bytes,
    alone: Transcript,
) -> None:
    await both(jobs_cluster, "Front")
    before = await all_decoded(client)
    assert await text_of(client, long_audio) == alone.text
    whole = await all_decoded(client) - before
    job = await submit(client, long_audio)
    await half_done(client, job["id"])
    owner, _ = rows(content, job["id"])
    killed = front_of(jobs_cluster, owner)
    os.kill(killed, signal.SIGKILL)
    assert (await until_end(client, job["id"]))["status"] == "completed"
    (other,) = fronts_with(jobs_cluster, f"job {job['id']} goes on")
    assert other != killed
    await check_result(client, job["id"], alone)
    assert await all_decoded(client) - before <= 2 * whole + UNDER_WAY < 2.5 * whole


async def test_a_job_of_a_machine_that_dies_is_taken_up_when_its_lease_is_over(
    client: httpx.AsyncClient,
    jobs_cluster: Cluster,
    content: dict[str, Any],
    nano_cache: Path,
    tmp_path: Path,
    long_audio: bytes,
    alone: Transcript,
) -> None:
    """Nothing there tells the other fronts that it is gone: they share no folder with it."""
    with another_machine(jobs_cluster, tmp_path) as node:
        more = copy.deepcopy(content)
        front, _ = more["applications"][0]["deployments"]
        front.update(num_replicas=3, max_replicas_per_node=2)
        await deploy(jobs_cluster, more, nano_cache)
        await number_of(jobs_cluster, "Front", 2)
        await asyncio.to_thread(wait_until, lambda: bool(replicas_below(node, "Front")), "front there")
        for _ in range(20):
            job = await submit(client, long_audio)
            await half_done(client, job["id"])
            owner, _ = rows(content, job["id"])
            assert owner is not None
            if is_below(tmp_path, owner):
                break
        else:
            raise AssertionError("the front there has got none")
        end_all(node)
    assert (await until_end(client, job["id"]))["status"] == "completed"
    await check_result(client, job["id"], alone)
    assert len(fronts_with(jobs_cluster, f"job {job['id']} goes on")) == 1


async def test_a_front_that_is_not_needed_any_more_gives_its_job_to_another_one(
    client: httpx.AsyncClient,
    jobs_cluster: Cluster,
    content: dict[str, Any],
    nano_cache: Path,
    long_audio: bytes,
    alone: Transcript,
) -> None:
    await both(jobs_cluster, "Front")
    jobs = [await submit(client, long_audio) for _ in range(3)]
    await half_done(client, jobs[0]["id"])
    fewer = config(port_of(jobs_cluster), replicas=1)
    fewer["applications"][0]["args"] = content["applications"][0]["args"]
    await deploy(jobs_cluster, fewer, nano_cache)
    ended = [await until_end(client, job["id"]) for job in jobs]
    assert {each["status"] for each in ended} == {"completed"}
    for job in jobs:
        await check_result(client, job["id"], alone)
        assert rows(content, job["id"])[1] == 0
    await number_of(jobs_cluster, "Front", 1)


async def test_the_end_gives_jobs_back(
    client: httpx.AsyncClient, jobs_cluster: Cluster, content: dict[str, Any], long_audio: bytes
) -> None:
    """The last one: it ends the cluster."""
    job = await submit(client, long_audio)
    await half_done(client, job["id"])
    jobs_cluster.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(jobs_cluster.process.wait, 120) == 0
    assert rows(content, job["id"]) == (None, 0)
