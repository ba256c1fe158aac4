"""A decoder that crashes, over HTTP: its request gets a 400, all others their transcripts."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.conftest import Sample, Server, StartServer
from tests.support.audio_files import encode, tone
from tests.support.crashing_decoder import plant
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import OpenClient
from whisper_server.services.audio.decoder_process import handle, watch

POISON = encode(tone(1.0), container="caf")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="looks for processes as Linux and macOS have them"),
]


def decoders_of(pid: int) -> list[psutil.Process]:
    """Return the decoders that a process has; other children, and theirs, may be another test's."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if any("decoder_process.child" in argument for argument in child.cmdline()):
                found.append(child)
    return found


async def test_a_crash_is_a_400_and_all_others_are_served(
    open_client: OpenClient, speech: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("crash", monkeypatch)
    async with open_client(decoder_processes=2) as client:
        expected = (await client.post(URL, **form(speech.data))).json()

        async def poisoned() -> None:
            message = error_of(await client.post(URL, **form(POISON)), 400, param="file")
            assert "crash" in message

        async def served() -> None:
            response = await client.post(URL, **form(speech.data))
            assert (response.status_code, response.json()) == (200, expected)
            assert (await client.get("/health")).status_code == 200

        await asyncio.gather(*(job() for _ in range(3) for job in (poisoned, served)))
        error_of(await client.post("/debug/audio-info", **form(POISON)), 400, param="file")
        await served()
    assert decoders_of(os.getpid()) == []


async def test_a_decoder_that_is_killed_harms_no_request(open_client: OpenClient, speech: Sample) -> None:
    """As the kernel does it where memory runs out: nothing says that the file was to blame."""
    async with open_client(decoder_processes=2) as client:
        expected = (await client.post(URL, **form(speech.data))).json()
        requests = [asyncio.create_task(client.post(URL, **form(speech.data))) for _ in range(8)]
        await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        for process in decoders_of(os.getpid()):
            process.kill()
        for response in await asyncio.gather(*requests):
            assert (response.status_code, response.json()) == (200, expected)


async def test_nothing_is_started_before_the_first_upload(open_client: OpenClient) -> None:
    async with open_client(decoder_processes=2) as client:
        assert (await client.get("/ready")).status_code == 200
        assert decoders_of(os.getpid()) == []


async def test_not_ready_while_no_decoder_answers(
    open_client: OpenClient, speech: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = handle.child_command()
    monkeypatch.setattr(watch, "START_LIMIT_S", 0.2)
    never = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    monkeypatch.setattr(handle, "child_command", lambda: never)
    async with open_client(decoder_processes=1) as client:
        assert (await client.get("/ready")).status_code == 200
        error_of(await client.post(URL, **form(speech.data)), 503)
        assert "cannot be started" in error_of(await client.get("/ready"), 503)
        assert (await client.get("/health")).status_code == 200
        monkeypatch.setattr(watch, "START_LIMIT_S", 60.0)
        monkeypatch.setattr(handle, "child_command", lambda: command)
        assert (await client.get("/ready")).status_code == 200
        assert (await client.post(URL, **form(speech.data))).status_code == 200


def _begun(server: Server, speech: Sample) -> psutil.Process:
    """Let the server decode something; return its decoder."""
    response = httpx.post(f"{server.url}{URL}", **form(speech.data), timeout=60)
    assert response.status_code == 200, response.text
    (decoder,) = decoders_of(server.process.pid)
    return decoder


def test_sigterm_leaves_no_process(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    decoder = _begun(server, speech)
    assert server.stop() == 0
    assert psutil.wait_procs([decoder], timeout=60)[1] == []


def test_kill_leaves_no_process(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    decoder = _begun(server, speech)
    server.process.kill()
    assert psutil.wait_procs([decoder], timeout=60)[1] == []


def test_a_dead_decoder_is_replaced(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    first = _begun(server, speech)
    first.kill()
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    assert _begun(server, speech).pid != first.pid
    server.stop()
    assert not any("Traceback" in line for line in server.lines)


def test_the_setting_turns_it_off(start_server: StartServer, speech: Sample) -> None:
    server = start_server(WHISPER_DECODER_PROCESSES="0")
    response = httpx.post(f"{server.url}{URL}", **form(speech.data), timeout=60)
    assert response.status_code == 200
    assert decoders_of(server.process.pid) == []
