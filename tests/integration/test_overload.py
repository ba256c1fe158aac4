"""More work than the server takes on: who is sent away and how, and that every place is given back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import Sample, Server, StartServer
from tests.support.asgi_client import StreamingClient, Uploading
from tests.support.audio_files import encode, wav_bytes
from tests.support.held_requests import held, inside, until
from tests.support.http_requests import HEARD, URL, b64, error_in, error_of, form, upload_begun
from tests.support.in_process import OpenClient
from tests.support.long_audio import speak_for
from whisper_server.core.types import TranscribeParams
from whisper_server.services.engines import fake

CODE = "rate_limit_exceeded"


@pytest.fixture(autouse=True)
def _device_runs() -> Iterator[None]:
    yield
    fake.GATE.set()


@pytest.fixture(scope="session")
def talk() -> bytes:
    return speak_for(70)


def overload_of(response: httpx.Response) -> str:
    message = error_of(response, 429, code=CODE)
    assert response.headers["retry-after"].isdecimal()
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert "x-should-retry" not in response.headers
    return message


async def test_one_more_than_the_limit_is_sent_away_and_the_others_are_served(
    open_client: OpenClient, speech: Sample
) -> None:
    async with open_client(queue_requests=2) as client:
        async with held(client, form(speech.data), {"json": {"audio": b64(speech.data)}}) as tasks:
            assert "2 requests at once" in overload_of(await client.post(URL, **form(speech.data)))
            for url in ("/v1/audio/translations", "/v1/chat/completions", "/debug/audio-info"):
                overload_of(await client.post(url, **form(speech.data)))
            assert inside(client)[0] == 2
            for url in ("/health", "/v1/models", "/metrics"):
                assert (await client.get(url)).status_code == 200
        for task in tasks:
            assert HEARD.fullmatch(task.result().json()["text"])
        assert inside(client) == (0, 0.0, 0)
        assert (await client.post(URL, **form(speech.data))).status_code == 200


@pytest.mark.parametrize("url", [URL, "/v1/chat/completions"])
async def test_the_answer_comes_before_the_body_is_read(
    open_client: OpenClient, speech: Sample, url: str
) -> None:
    async with open_client(queue_requests=1) as client, held(client, form(speech.data)):
        late = StreamingClient(client.build_request("POST", url, **form(b"not even audio")))
        receive, late._receive = late._receive, None

        async def receive_after_the_answer() -> Any:
            assert late.sent
            return await receive()

        late._receive = receive_after_the_answer
        await late.run(client.app)
        assert late.status == 429
        assert late.headers[b"connection"] == b"close"
        assert late.is_complete


async def test_audio_beyond_what_may_wait(open_client: OpenClient, speech: Sample, talk: bytes) -> None:
    async with open_client(queue_seconds=100) as client:
        async with held(client, form(talk)) as (first,):
            assert "seconds that may wait" in overload_of(await client.post(URL, **form(talk)))
            overload_of(await client.post(URL, **form(talk, stream="true")))
            overload_of(await client.post("/v1/audio/translations", **form(talk)))
            assert inside(client)[0] == 1
            short = asyncio.create_task(client.post(URL, **form(speech.data)))
            await until(lambda: inside(client)[0] == 2)
        assert HEARD.match(first.result().json()["text"])
        assert (await short).status_code == 200
        assert (await client.post(URL, **form(talk))).status_code == 200


def without_total(flac: bytes) -> bytes:
    """Let a header say what those of live streams do: nothing of the length (RFC 9639, section 8.2)."""
    assert flac[:4] == b"fLaC"
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


async def test_audio_whose_length_no_header_tells_is_counted_as_it_is_read(
    open_client: OpenClient, talk: bytes
) -> None:
    quiet = np.zeros(16_000 * 400, np.float32)  # in which nothing has to wait for the device
    live = without_total(encode(quiet, container="flac", codec="flac"))
    async with open_client(queue_seconds=90) as client:
        async with held(client, form(talk)):
            for path in (URL, "/debug/audio-info"):
                overload_of(await client.post(path, **form(live)))
            assert inside(client)[0] == 1
        for path in (URL, "/debug/audio-info"):
            assert (await client.post(path, **form(live))).status_code == 200
        assert inside(client) == (0, 0.0, 0)


async def test_one_long_file_is_never_too_long_for_the_queue(open_client: OpenClient, talk: bytes) -> None:
    async with open_client(queue_seconds=10) as client:
        async with held(client, form(talk)):
            assert "10 seconds of waiting audio" in overload_of(await client.post(URL, **form(talk)))
        assert inside(client) == (0, 0.0, 0)


async def test_a_recording_of_two_speakers_is_refused_before_its_channels_are_compared(
    open_client: OpenClient, talk: bytes
) -> None:
    same = wav_bytes(bytes(2 * 2 * 16_000 * 60), channels=2)  # a minute of silence: refused, if it were read
    async with open_client(queue_seconds=100) as client, held(client, form(talk)):
        overload_of(await client.post(URL, **form(same, response_format="diarized_json")))


async def test_progress_makes_room_while_a_file_is_at_work(client: httpx.AsyncClient, talk: bytes) -> None:
    left: list[float] = []

    def look(_: bytes) -> None:
        left.append(inside(client)[1])

    streaming = StreamingClient(client.build_request("POST", URL, **form(talk, stream="true")), look)
    await streaming.run(client.app)
    assert len(left) > 3
    assert left == sorted(left, reverse=True)
    assert 20 < left[0] < 70
    assert left[-1] < 5
    assert inside(client) == (0, 0.0, 0)


@pytest.mark.parametrize("is_declared", [True, False])
async def test_bytes_of_uploads(open_client: OpenClient, is_declared: bool) -> None:
    """As declared at once, or else as they come."""
    async with open_client(max_audio_file_size_mb=1, queue_mb=1) as client:
        limit = client.app.state.services.admission.state().limits.upload_bytes
        assert limit == 2446677  # one largest file in base64: never less

        def upload() -> Uploading:
            headers = {"content-type": "application/json"}
            body = b"x" * 1_300_000
            request = client.build_request("POST", URL, content=body, headers=headers)
            if not is_declared:
                del request.headers["content-length"]
            return Uploading(request)

        first, second = upload(), upload()
        running = asyncio.create_task(first.run(client.app))
        if not is_declared:
            first.say(b"x" * 1_300_000)
        await until(lambda: inside(client) == (1, 0.0, 1_300_000))
        if not is_declared:
            second.say(b"x" * 1_200_000)
        second.leave()
        await second.run(client.app)
        assert second.status == 429
        assert b"2 MiB of uploads" in second.parts[0]
        assert inside(client) == (1, 0.0, 1_300_000)
        first.leave()
        await running
        assert first.sent == []
        assert inside(client) == (0, 0.0, 0)


async def test_leaving_while_the_work_waits(open_client: OpenClient, talk: bytes) -> None:
    async with open_client(queue_requests=1) as client:
        for fields in ({}, {"stream": "true"}):
            fake.GATE.clear()
            leaving = StreamingClient(client.build_request("POST", URL, **form(talk, **fields)))
            running = asyncio.create_task(leaving.run(client.app))
            await until(lambda: inside(client)[1] > 60)
            leaving.left.set()
            await running
            assert leaving.sent == []
            assert inside(client) == (0, 0.0, 0)
            fake.GATE.set()
            assert (await client.post(URL, **form(talk))).status_code == 200


async def test_leaving_in_the_middle_of_a_stream(open_client: OpenClient, talk: bytes) -> None:
    async with open_client(queue_requests=1) as client:

        def leave(_: bytes) -> None:
            assert inside(client)[0] == 1  # also now that its route has returned
            fake.GATE.clear()
            leaving.left.set()

        leaving = StreamingClient(client.build_request("POST", URL, **form(talk, stream="true")), leave)
        await leaving.run(client.app)
        assert inside(client) == (0, 0.0, 0)


async def test_a_recording_of_two_speakers_is_as_far_as_its_slower_channel(
    client: httpx.AsyncClient, talk: bytes
) -> None:
    one = np.frombuffer(talk[44:], "<i2")
    both = np.stack([one, np.concatenate([np.zeros(35 * 16_000, "<i2"), one])[: len(one)]], axis=1)
    services = client.app.state.services
    told: list[float] = []
    params = TranscribeParams(services.catalog.resolve("whisper-1"), speakers=("Ann", "Bob"))
    conversation = await services.transcriber.open(wav_bytes(both.tobytes(), channels=2), params)
    conversation.on_window = told.append
    transcript = await conversation.collect()
    assert {segment.speaker for segment in transcript.segments} == {"Ann", "Bob"}
    assert len(told) == conversation.windows_done > 4
    assert told == sorted(told)
    assert told[0] == 0.0  # one channel has its first window, the other none yet
    assert 60 < told[-1] <= transcript.duration_s


@pytest.mark.parametrize("data", [b"", b"no audio" * 99, b"RIFF"])
async def test_errors_give_their_place_back(open_client: OpenClient, data: bytes) -> None:
    async with open_client(queue_requests=1) as client:
        for arguments in (form(data), {"json": {"audio": b64(data)}}, {"content": data}):
            for url in (URL, "/v1/chat/completions", "/debug/audio-info"):
                assert (await client.post(url, **arguments)).status_code == 400
                assert inside(client) == (0, 0.0, 0)


async def test_ready_says_when_the_queue_is_full(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(queue_requests=1, queue_mb=200) as client:
        empty = (await client.get("/ready")).json()["queue"]
        assert empty == {
            **{"requests": 0, "max_requests": 1, "audio_seconds": 0.0, "max_audio_seconds": 8 * 3600},
            **{"upload_bytes": 0, "max_upload_bytes": 200 << 20},
        }
        async with held(client, form(speech.data)):
            full = await client.get("/ready")
            assert '"requests":1,"max_requests":1,"audio_seconds":2.5' in error_of(full, 503)
            assert full.headers["retry-after"].isdecimal()
            assert (await client.head("/ready")).status_code == 503
        assert (await client.get("/ready")).json()["queue"] == empty
        assert (await client.head("/ready")).status_code == 200


# --- a real server ----------------------------------------------------------------------------------


@pytest.fixture
def single(start_server: StartServer) -> Server:
    """A server that takes one request at a time."""
    return start_server("--queue-requests", "1")


def test_a_client_that_uploads_sees_the_429_and_no_reset(single: Server, speech: Sample) -> None:
    body = b"x" * 20_000_000
    top = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with upload_begun(single.address) as first:
        with socket.create_connection(single.address, timeout=60) as late:
            late.sendall(f"{top}Content-Length: {len(body)}\r\n\r\n".encode())
            late.sendall(body)
            status, error = error_in(late)  # reads to the end: a reset would raise
            assert status == "HTTP/1.1 429 Too Many Requests"
            assert error["code"] == CODE
        overload_of(httpx.post(f"{single.url}{URL}", files={"file": body}))
        with socket.create_connection(single.address, timeout=60) as asking:
            asking.sendall(f"{top}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
            status, _ = error_in(asking)  # it was told before it sent anything
            assert status == "HTTP/1.1 429 Too Many Requests"
        assert httpx.get(f"{single.url}/ready").status_code == 503
        first.sendall(b"{}")
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 400 ")  # it had its place all the time
    assert httpx.get(f"{single.url}/ready").status_code == 200
    assert httpx.post(f"{single.url}{URL}", files={"file": speech.data}).status_code == 200


def test_a_client_that_hangs_up_in_its_upload_frees_its_place(single: Server) -> None:
    with upload_begun(single.address):
        assert httpx.get(f"{single.url}/ready").status_code == 503
    while httpx.get(f"{single.url}/ready").status_code != 200:
        pass
