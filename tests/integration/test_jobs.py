"""Jobs over HTTP, on the fake engine: what a client can ask, and what it gets."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, Sample
from tests.support.audio_files import wav_bytes
from tests.support.held_requests import until
from tests.support.http_requests import URL, b64, error_of, form
from tests.support.in_process import MakeSettings, OpenClient, client_of
from tests.support.job_requests import JOBS, frames_of, result_of, submit, until_end
from tests.support.long_audio import speak_for
from whisper_server.services.engines import fake
from whisper_server.services.jobs import work

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")


class Gate(threading.Event):
    """Holds the device, and tells when it is asked for something."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.arrived.set()
        return super().wait(60)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A device that does nothing until it is let."""
    held = Gate()
    monkeypatch.setattr(fake, "GATE", held)
    yield held
    held.set()


async def test_a_request_that_comes_again_gets_its_job(client: httpx.AsyncClient, speech: Sample) -> None:
    key = {"Idempotency-Key": "mine"}

    async def send(data: bytes, headers: dict[str, str], **fields: str) -> httpx.Response:
        return await client.post(URL, **form(data, background="true", **fields), headers=headers)

    first, again = await send(speech.data, key), await send(speech.data, key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    for other in (await send(speech.data, key, language="de"), await send(speak_for(2), key)):
        error_of(other, 400, param="Idempotency-Key")
    assert (await send(speech.data, {"Idempotency-Key": "a" * 256})).status_code == 400
    assert (await send(speech.data, {"Idempotency-Key": " "})).json()["id"] != first.json()["id"]
    assert len((await client.get(JOBS)).json()["data"]) == 2
    ended = await until_end(client, first.json()["id"])
    assert ended["status"] == "completed"
    assert (await send(speech.data, key)).json()["status"] == "completed"


async def test_a_job_has_the_result_of_the_request_in_every_format(
    client: httpx.AsyncClient, speech: Sample
) -> None:
    job = await submit(client, speech.data, response_format="srt", max_line_chars="12")
    assert (job["object"], job["status"], job["endpoint"]) == ("transcription.job", "validating", URL)
    ended = await until_end(client, job["id"])
    assert (ended["status"], ended["seconds_left"]) == ("completed", 0.0)
    assert ended["seconds_done"] == ended["seconds_total"] == pytest.approx(speech.duration_s, abs=0.01)
    at_once = await client.post(URL, **form(speech.data, response_format="srt", max_line_chars="12"))
    assert (await result_of(client, job["id"])).text == at_once.text
    for name in FORMATS:
        at_once = await client.post(URL, **form(speech.data, response_format=name))
        later = await result_of(client, job["id"], response_format=name, max_line_chars=42)
        assert (later.status_code, later.text) == (200, at_once.text)
        assert later.headers["content-type"] == at_once.headers["content-type"]
    for query in (
        {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
        {"response_format": "json", "include[]": "logprobs"},
    ):
        at_once = await client.post(URL, **form(speech.data, **query))
        assert (await result_of(client, job["id"], **query)).json() == at_once.json()
    got = (await client.get(f"{JOBS}/{job['id']}")).json()
    assert got["text"] == (await result_of(client, job["id"], response_format="text")).text.strip()


async def test_json_and_translations_can_be_jobs(client: httpx.AsyncClient, speech: Sample) -> None:
    sent = {"audio": b64(speech.data), "background": True, "response_format": "verbose_json"}
    for path in (URL, "/v1/audio/translations"):
        reply = await client.post(path, json=sent)
        assert reply.status_code == 202
        assert (await until_end(client, reply.json()["id"]))["status"] == "completed"
        at_once = await client.post(path, json={**sent, "background": False})
        assert (await result_of(client, reply.json()["id"])).json() == at_once.json()


async def test_speakers_by_channel(client: httpx.AsyncClient) -> None:
    pair = bytes(4 * 1600) + b"\x00\x40\x00\x00\x00\xc0\x00\x00" * 8000
    stereo = wav_bytes(pair, channels=2)
    job = await submit(client, stereo, response_format="diarized_json", known_speaker_names="Ann")
    assert (await until_end(client, job["id"]))["status"] == "completed"
    at_once = await client.post(
        URL, **form(stereo, response_format="diarized_json", known_speaker_names="Ann")
    )
    assert (await result_of(client, job["id"])).json() == at_once.json()
    mono = await client.post(
        URL, **form(wav_bytes(bytes(32000)), background="true", response_format="diarized_json")
    )
    error_of(mono, 400, param="response_format")


async def test_events_go_on_behind_the_last_one_that_was_seen(
    client: httpx.AsyncClient, speech: Sample
) -> None:
    job = await submit(client, speech.data)
    url = f"{JOBS}/{job['id']}/events"
    all_events = frames_of((await client.get(url)).text)
    numbered = [(number, event) for number, event in all_events if number is not None]
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
    assert len(numbered) >= 3
    deltas = [event["delta"] for _, event in numbered if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == numbered[-1][1]["text"]
    assert all_events[-1][1]["type"] == "job.completed"
    for seen in range(len(numbered) + 1):
        again = frames_of((await client.get(url, headers={"last-event-id": str(seen)})).text)
        assert [each for each in again if each[0] is not None] == numbered[seen:]
        assert again[-1] == all_events[-1]
    error_of(await client.get(url, headers={"last-event-id": "x"}), 400, param="Last-Event-ID")


async def test_what_is_running_is_told_and_can_be_cancelled(
    client: httpx.AsyncClient, gate: Gate, speech: Sample, tmp_path: Path
) -> None:
    job = await submit(client, speech.data)
    assert await asyncio.to_thread(gate.arrived.wait, 60)
    got = (await client.get(f"{JOBS}/{job['id']}")).json()
    assert (got["status"], got["text"], got["seconds_left"]) == ("in_progress", "", None)
    message = error_of(await result_of(client, job["id"]), 409, code="job_not_finished")
    assert "in_progress" in message
    assert len(list((tmp_path / "cache" / "jobs" / "uploads").iterdir())) == 1
    cancelled = (await client.delete(f"{JOBS}/{job['id']}")).json()
    assert cancelled["status"] == "cancelling"
    assert (await until_end(client, job["id"]))["status"] == "cancelled"
    refused = await result_of(client, job["id"])
    error_of(refused, 409, code="job_not_finished")
    assert refused.headers["x-should-retry"] == "false"
    assert (await client.delete(f"{JOBS}/{job['id']}")).json()["deleted"] is True
    assert list((tmp_path / "cache" / "jobs" / "uploads").iterdir()) == []
    error_of(await client.get(f"{JOBS}/{job['id']}"), 404, code="job_not_found")


async def test_lists_have_pages_and_states(open_client: OpenClient, gate: Gate, speech: Sample) -> None:
    async with open_client(jobs_at_once=1) as client:
        assert (await client.get(JOBS)).json()["data"] == []
        ids = [(await submit(client, speech.data))["id"] for _ in range(3)]
        assert await asyncio.to_thread(gate.arrived.wait, 60)
        first = (await client.get(JOBS, params={"limit": 2})).json()
        assert [each["id"] for each in first["data"]] == ids[:0:-1]
        assert (first["has_more"], first["last_id"]) == (True, ids[1])
        rest = (await client.get(JOBS, params={"limit": 2, "after": first["last_id"]})).json()
        assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[:1], False)
        running = (await client.get(JOBS, params={"status": "in_progress"})).json()
        assert [each["id"] for each in running["data"]] == ids[:1]
        waiting = await client.delete(f"{JOBS}/{ids[2]}")
        assert waiting.json()["status"] == "cancelled"  # nobody is at it
        gate.set()
        assert (await until_end(client, ids[1]))["status"] == "completed"
        error_of(await client.get(JOBS, params={"after": "nothing"}), 404, code="job_not_found")
        error_of(await client.get(JOBS, params={"limit": 0}), 400, param="limit")


@pytest.mark.parametrize(
    "limits", [{"job_limit": 1}, {"job_seconds": 3}, {"job_mb": 1, "max_audio_file_size_mb": 1}]
)
async def test_what_is_too_much_gets_a_429(
    open_client: OpenClient, gate: Gate, speech: Sample, limits: dict[str, int]
) -> None:
    data = wav_bytes(bytes(20 * 32000)) if "job_mb" in limits else speech.data
    async with open_client(**limits) as client:
        job = await submit(client, data)
        refused = await client.post(URL, **form(data, background="true"))
        error_of(refused, 429, code="rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        gate.set()
        await until_end(client, job["id"])
        await submit(client, data)


async def test_bad_requests(open_client: OpenClient, speech: Sample) -> None:
    async with open_client() as client:
        garbage = await client.post(URL, **form(b"no audio at all", background="true"))
        error_of(garbage, 400, param="file")
        both = await client.post(URL, **form(speech.data, background="true", stream="true"))
        error_of(both, 400, param="stream")
        unknown = await client.post(URL, **form(speech.data, background="true", model="nothing"))
        error_of(unknown, 404, param="model", code="model_not_found")
        for path in (f"{JOBS}/job_0", f"{JOBS}/..%2f", f"{JOBS}/job_{'0' * 500}", f"{JOBS}/job_0/result"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get(f"{JOBS}/job_0/events")).status_code == 404
        error_of(await client.delete(f"{JOBS}/job_00"), 404, code="job_not_found")
    async with open_client(job_store="none") as client:
        refused = await client.post(URL, **form(speech.data, background="true"))
        error_of(refused, 400, param="background")
        assert (await client.get(JOBS)).json()["data"] == []


async def test_a_job_that_fails_says_why(client: httpx.AsyncClient) -> None:
    cut = wav_bytes(bytes(3200))[:100]  # a header, and too little sound
    job = await submit(client, cut)
    ended = await until_end(client, job["id"])
    assert (ended["status"], ended["error"]["param"]) == ("failed", "file")
    assert ended["failed_at"] >= ended["created_at"]


async def test_what_has_ended_is_removed_by_age_and_by_size(settings: MakeSettings, speech: Sample) -> None:
    async with client_of(settings()) as client:
        job = await submit(client, speech.data)
        await until_end(client, job["id"])
    async with client_of(settings(job_keep_hours=1e-9)) as client:
        other = await submit(client, speech.data)  # the look for old ones comes before the next job
        await until_end_or_gone(client, other["id"])
        error_of(await client.get(f"{JOBS}/{job['id']}"), 404, code="job_not_found")
    async with client_of(settings(job_mb=1, max_audio_file_size_mb=1)) as client:
        first = await submit(client, speech.data)
        await until_end(client, first["id"])
        largest = await submit(client, wav_bytes(bytes((1 << 20) - 100)))
        error_of(await client.get(f"{JOBS}/{first['id']}"), 404, code="job_not_found")
        assert (await until_end(client, largest["id"]))["status"] == "completed"


async def until_end_or_gone(client: httpx.AsyncClient, job_id: str) -> None:
    await client.get(f"{JOBS}/{job_id}/events")


async def test_jobs_are_counted(client: httpx.AsyncClient, speech: Sample) -> None:
    job = await submit(client, speech.data)
    await until_end(client, job["id"])
    await until(lambda: client.app.state.services.jobs.running == 0)
    page = (await client.get("/metrics")).text
    assert "whisper_jobs_submitted_total 1.0" in page
    assert 'whisper_jobs_ended_total{state="completed"} 1.0' in page
    assert "whisper_jobs_running 0.0" in page


async def test_a_server_that_ends_gives_its_jobs_back(
    settings: MakeSettings, gate: Gate, speech: Sample
) -> None:
    async with client_of(settings()) as client:
        job = await submit(client, speech.data)
        assert await asyncio.to_thread(gate.arrived.wait, 60)
        watching = asyncio.create_task(client.get(f"{JOBS}/{job['id']}/events"))
        await until(lambda: bool(client.app.state.services.jobs._watchers))
        client.app.state.drain()
        told = frames_of((await watching).text)  # the stream ends; whoever comes back is told the rest
        assert {event["type"] for _, event in told} <= {"job.progress"}
        gate.set()
    async with client_of(settings()) as client:
        assert (await until_end(client, job["id"]))["status"] == "completed"


def test_a_server_without_jobs_does_not_load_the_database() -> None:
    code = (
        "import sys, asyncio, pathlib, tempfile\n"
        "from whisper_server.api.app import create_app\n"
        "from whisper_server.core.config import Settings\n"
        "import httpx\n"
        "async def main(folder):\n"
        "    app = create_app(Settings(_env_file=None, engine='fake', cache_dir=pathlib.Path(folder)))\n"
        "    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://localhost')\n"
        "    async with app.router.lifespan_context(app), client:\n"
        "        assert (await client.get('/v1/jobs')).json()['data'] == []\n"
        "    assert not list(pathlib.Path(folder).rglob('jobs*'))\n"
        "asyncio.run(main(tempfile.mkdtemp()))\n"
        "assert 'sqlalchemy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


async def test_a_job_gives_its_model_back_to_a_request_that_has_no_room_for_its_own(
    open_client: OpenClient,
    gate: Gate,
    speech: Sample,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(work, "RETRY_S", 0.0)
    caplog.set_level(logging.INFO)
    data = speak_for(200)
    async with open_client(max_models=1) as client:
        job = await submit(client, data, model="whisper-tiny")
        assert await asyncio.to_thread(gate.arrived.wait, 60)
        request = asyncio.create_task(client.post(URL, **form(speech.data, model="whisper-base")))
        await until(client.app.state.services.models.is_room_wanted)
        gate.set()
        assert (await request).status_code == 200
        assert (await until_end(client, job["id"]))["status"] == "completed"
        assert "gives way" in caplog.text
        at_once = await client.post(URL, **form(data, model="whisper-tiny"))
        assert (await result_of(client, job["id"])).json() == at_once.json()


async def test_servers_that_share_nothing_but_a_database(
    settings: MakeSettings, gate: Gate, speech: Sample, tmp_path: Path, postgres_url: str
) -> None:
    one = settings(job_store=postgres_url, cache_dir=tmp_path / "one")
    other = settings(job_store=postgres_url, cache_dir=tmp_path / "other")
    async with client_of(one) as client:
        job = await submit(client, speech.data, response_format="verbose_json")
        assert await asyncio.to_thread(gate.arrived.wait, 60)
        gate.set()
    async with client_of(other) as client:
        assert (await until_end(client, job["id"]))["status"] == "completed"
        at_once = await client.post(URL, **form(speech.data, response_format="verbose_json"))
        assert (await result_of(client, job["id"])).json() == at_once.json()
    assert uploads_in(tmp_path) == []


def uploads_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("job_*") if path.is_file()]


async def test_a_database_that_cannot_be_had_is_a_503(open_client: OpenClient, speech: Sample) -> None:
    nobody = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    async with open_client(job_store=nobody) as client:
        error_of(await client.post(URL, **form(speech.data, background="true")), 503)
        error_of(await client.get(JOBS), 503)
        assert (await client.post(URL, **form(speech.data))).status_code == 200
