"""Jobs and the end of servers: a kill in the middle changes nothing of the result, two servers share them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import NANO, Sample, Server, StartServer
from tests.support.gated_server import let_through, open_gate, wait_for_batch
from tests.support.http_requests import URL, form
from tests.support.job_requests import JOBS
from tests.support.long_audio import speak_for

pytestmark = pytest.mark.long

TIMEOUT_S = 300.0  # only ever reached where the code under test hangs


def submit(server: Server, data: bytes, **fields: Any) -> str:
    reply = httpx.post(server.url + URL, **form(data, background="true", **fields), timeout=TIMEOUT_S)
    assert reply.status_code == 202, reply.text
    job_id: str = reply.json()["id"]
    return job_id


def events(server: Server, job_id: str, seen: int = 0) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the events of a job with their ids, as they come."""
    url, headers = f"{server.url}{JOBS}/{job_id}/events", {"last-event-id": str(seen)}
    with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as reply:
        number = None
        for line in reply.iter_lines():
            if line.startswith("id: "):
                number = int(line.removeprefix("id: "))
            elif line.startswith("data: "):
                yield number, json.loads(line.removeprefix("data: "))
                number = None


def until_end(server: Server, job_id: str, seen: int = 0) -> list[tuple[int | None, dict[str, Any]]]:
    found = list(events(server, job_id, seen))
    assert found[-1][1]["type"] == "job.completed", found[-1]
    return found


def result(server: Server, job_id: str, response_format: str) -> str:
    query = {"response_format": response_format}
    reply = httpx.get(f"{server.url}{JOBS}/{job_id}/result", params=query, timeout=TIMEOUT_S)
    assert reply.status_code == 200, reply.text
    return reply.text


def windows_decoded(server: Server) -> float:
    page = httpx.get(server.url + "/metrics", timeout=TIMEOUT_S).text
    return sum(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("whisper_batch_windows_sum")
    )


def test_a_kill_in_the_middle_costs_no_window_that_was_stored(
    start_server: StartServer, speech: Sample
) -> None:
    data = speak_for(200)
    first = start_server(module="tests.support.gated_server", pipe=subprocess.PIPE)
    job_id = submit(first, data)
    wait_for_batch(first)
    told = events(first, job_id)
    let_through(first, 3)
    seen = next(number for number, event in told if event["type"] == "transcript.text.segment")
    first.process.kill()
    first.process.wait(60)
    second = start_server()
    rest = until_end(second, job_id, seen or 0)
    assert next(number for number, _ in rest if number is not None) == (seen or 0) + 1
    after_kill = windows_decoded(second)
    whole = httpx.post(second.url + URL, **form(data, response_format="verbose_json"), timeout=TIMEOUT_S)
    assert result(second, job_id, "verbose_json") == whole.text
    assert 0 < after_kill < windows_decoded(second) - after_kill
    got = httpx.get(f"{second.url}{JOBS}/{job_id}", timeout=TIMEOUT_S).json()
    assert got["text"] == whole.json()["text"]


def test_two_servers_on_one_folder_do_each_job_once(start_server: StartServer, speech: Sample) -> None:
    one = start_server("--jobs-at-once", "1", module="tests.support.gated_server", pipe=subprocess.PIPE)
    other = start_server("--jobs-at-once", "1", module="tests.support.gated_server", pipe=subprocess.PIPE)
    first = submit(one, speech.data)
    wait_for_batch(one)
    second = submit(other, speech.data)
    wait_for_batch(other)
    listed = httpx.get(other.url + JOBS, timeout=TIMEOUT_S).json()["data"]
    assert {each["id"]: each["status"] for each in listed} == {first: "in_progress", second: "in_progress"}
    cancelled = httpx.delete(f"{other.url}{JOBS}/{first}", timeout=TIMEOUT_S).json()  # which `one` is at
    assert cancelled["status"] == "cancelling"
    open_gate(other)
    until_end(other, second)
    open_gate(one)
    last = list(events(other, first))[-1][1]
    assert last["type"] == "job.cancelled"
    assert (windows_decoded(one), windows_decoded(other)) == (1.0, 1.0)


def test_a_job_of_a_server_that_ends_is_taken_up_by_another_one(
    start_server: StartServer, speech: Sample
) -> None:
    one = start_server(module="tests.support.gated_server", pipe=subprocess.PIPE)
    job_id = submit(one, speech.data)
    wait_for_batch(one)
    other = start_server()
    open_gate(one)
    one.process.kill()
    one.process.wait(60)
    until_end(other, job_id)


@pytest.mark.parametrize("fields", [{}, {"prompt": "cat", "keywords": "table"}], ids=["plain", "prompt"])
def test_the_result_after_a_kill_with_a_model(start_server: StartServer, fields: dict[str, str]) -> None:
    data = speak_for(180)
    variables = {"WHISPER_ENGINE": "ctranslate2", "WHISPER_MODEL": str(NANO), "WHISPER_THREADS": "1"}
    server = start_server(**variables)
    job_id = submit(server, data, **fields)
    seen = 0
    for part in (4, 8):  # killed twice, at different places
        for number, event in events(server, job_id, seen):
            assert event["type"] != "job.completed", "it was over before it could be killed"
            seen = number or seen
            if seen >= part:
                break
        server.process.kill()
        server.process.wait(60)
        server = start_server(**variables)
    until_end(server, job_id, seen)
    after_kill = windows_decoded(server)
    for name in ("verbose_json", "srt"):
        whole = httpx.post(server.url + URL, **form(data, response_format=name, **fields), timeout=TIMEOUT_S)
        assert result(server, job_id, name) == whole.text
    assert after_kill < (windows_decoded(server) - after_kill) / 2
