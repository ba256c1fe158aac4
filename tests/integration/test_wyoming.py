"""Home Assistant's protocol, with the client of the `wyoming` package, as Home Assistant uses it."""

from __future__ import annotations

import asyncio
import io
import socket
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop, wav_to_chunks
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from tests.conftest import SAMPLES, Sample, StartServer
from tests.support.audio_files import encode, samples_of
from tests.support.held_requests import until
from tests.support.in_process import MakeSettings
from tests.support.long_audio import speak_for
from tests.support.real_models import real_model, real_recording
from whisper_server.api.app import create_app
from whisper_server.api.server.run import check_exposure
from whisper_server.api.server.sockets import listen
from whisper_server.core.config import Settings
from whisper_server.core.errors import ConfigError
from whisper_server.services.engines import fake

CHUNK_SAMPLES = 1024  # of Home Assistant
Door = tuple[Any, int]  # an application and its Wyoming port


@asynccontextmanager
async def door(settings: Settings) -> AsyncIterator[Door]:
    """Run an application with a Wyoming port."""
    (listening,) = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = create_app(settings, wyoming=[listening])
    async with app.router.lifespan_context(app):
        yield app, port


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[AsyncTcpClient]:
    client = AsyncTcpClient("127.0.0.1", port, connect_timeout=60, read_timeout=60)
    await client.connect()
    try:
        yield client
    finally:
        with suppress(ConnectionError):
            await client.disconnect()


def pcm(data: bytes) -> bytes:
    return (samples_of(data) * 32767).astype("<i2").tobytes()


async def say(client: AsyncTcpClient, data: bytes, asked: Transcribe | None = None) -> None:
    """Send an utterance as Home Assistant does: 16 kHz, 16 bits, mono."""
    await client.write_event((asked or Transcribe(language="en")).event())
    await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
    for at in range(0, len(data), 2 * CHUNK_SAMPLES):
        piece = data[at : at + 2 * CHUNK_SAMPLES]
        await client.write_event(AudioChunk(rate=16_000, width=2, channels=1, audio=piece).event())
    await client.write_event(AudioStop().event())


async def answers(client: AsyncTcpClient, last: str = "transcript-stop") -> list[Event]:
    found: list[Event] = []
    while (event := await client.read_event()) is not None:
        found.append(event)
        if event.type == last:
            break
    return found


def text_of(events: list[Event]) -> str:
    """Check the order of a streamed transcript; return its text."""
    kinds = [event.type for event in events]
    assert kinds == [
        "transcript-start",
        *["transcript-chunk"] * (len(kinds) - 3),
        "transcript",
        "transcript-stop",
    ]
    start, transcript = TranscriptStart.from_event(events[0]), Transcript.from_event(events[-2])
    assert start.language == transcript.language
    assert TranscriptStop.is_type(events[-1].type)
    assert "".join(TranscriptChunk.from_event(event).text for event in events[1:-2]) == transcript.text
    return transcript.text


async def metrics(app: Any) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return (await client.get("/metrics")).text


async def test_describe(settings: MakeSettings) -> None:
    async with door(settings(model="whisper-base")) as (_, port), client_of(port) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None
        (program,) = Info.from_event(event).asr
        assert program.supports_transcript_streaming
        assert program.installed
        assert program.models[0].name == "whisper-base"
        assert {"whisper-tiny", "whisper-large-v3-turbo"} <= {model.name for model in program.models}
        assert all({"en", "de", "yue"} <= set(model.languages) for model in program.models if model.installed)
        await client.write_event(Ping(text="x").event())
        assert Pong.from_event(await client.read_event() or Event("")).text == "x"


async def test_a_command_and_the_next_one_on_the_same_connection(
    nano_settings: Settings, speech: Sample
) -> None:
    async with door(nano_settings) as (app, port), client_of(port) as client:
        for _ in range(2):
            await say(client, pcm(speech.data))
            assert text_of(await answers(client)) == speech.text
        await client.write_event(Ping(text="").event())
        await client.read_event()  # so what was said is reported
        page = await metrics(app)
        assert 'whisper_requests_total{method="POST",route="wyoming",status="200"} 2.0' in page
        assert app.state.services.admission.state().requests == 0


async def test_languages_models_and_names(nano_settings: Settings) -> None:
    async with door(nano_settings) as (_, port), client_of(port) as client:
        data = pcm((SAMPLES / "fr-plain-009.flac").read_bytes())
        asked = Transcribe(
            name="nano-whisper", language=None, transcript_names=["Anna"], transcript_terms=["lamp"]
        )
        await say(client, data, asked)
        events = await answers(client)
        assert Transcript.from_event(events[-2]).language == "fr"


async def test_no_audio_is_an_empty_transcript(client_door: Callable[..., Any]) -> None:
    async with client_door() as (_, port), client_of(port) as client:
        for data in (b"", b"\0\0" * 100):
            await say(client, data)
            assert text_of(await answers(client)) == ""
        await client.write_event(AudioStop().event())
        assert [event.type for event in await answers(client)] == ["transcript", "transcript-stop"]


@pytest.fixture
def client_door(settings: MakeSettings) -> Callable[..., AbstractAsyncContextManager[Door]]:
    return lambda **fields: door(settings(**fields))


async def test_other_formats_are_converted(nano_settings: Settings, speech: Sample) -> None:
    stereo = encode(np.tile(np.repeat(samples_of(speech.data), 3), (2, 1)), rate=48_000)
    async with door(nano_settings) as (_, port), client_of(port) as client:
        await client.write_event(Transcribe(language="en").event())
        with wave.open(io.BytesIO(stereo)) as file:
            for each in wav_to_chunks(file, 4096, start_event=True, stop_event=True):
                await client.write_event(each.event())
        assert text_of(await answers(client)) == speech.text


async def test_errors_end_the_connection(client_door: Callable[..., Any], speech: Sample) -> None:
    async with client_door(max_audio_seconds=2) as (app, port):
        for asked, code in (
            (Transcribe(name="whisper-9"), "model_not_found"),
            (Transcribe(language="klingon"), "UnknownLanguage"),
            (Transcribe(), "AudioTooLong"),
        ):
            async with client_of(port) as client:
                try:
                    await say(client, pcm(speech.data), asked)
                except ConnectionError:
                    continue
                events = await answers(client)
                assert [Error.from_event(event).code for event in events] == [code]
        async with client_of(port) as client:
            assert client._writer is not None
            client._writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert [event.type for event in await answers(client)] == ["error"]
        await until(lambda: app.state.services.admission.state().requests == 0)


async def test_a_full_server_says_so(client_door: Callable[..., Any], speech: Sample) -> None:
    async with client_door(queue_requests=1) as (app, port), client_of(port) as client:
        with app.state.services.admission.enter():
            await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
            assert [Error.from_event(e).code for e in await answers(client)] == ["rate_limit_exceeded"]


async def test_a_client_that_stalls_is_ended(client_door: Callable[..., Any]) -> None:
    async with client_door(stall_timeout_s=0.2) as (app, port), client_of(port) as client:
        await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
        assert [Error.from_event(e).code for e in await answers(client)] == ["UploadStalled"]
        assert app.state.services.admission.state().requests == 0


async def test_a_client_that_leaves_frees_the_device(client_door: Callable[..., Any], speech: Sample) -> None:
    fake.GATE.clear()
    try:
        async with client_door() as (app, port):
            admission = app.state.services.admission
            async with client_of(port) as client:
                await say(client, pcm(speech.data))
                await until(lambda: admission.state().requests == 1)
            await until(lambda: admission.state().requests == 0)
            fake.GATE.set()
            assert 'whisper_clients_gone_total{stage="work"} 1.0' in await metrics(app)
    finally:
        fake.GATE.set()


async def test_long_dictation_is_decoded_while_it_comes_in(client_door: Callable[..., Any]) -> None:
    data = pcm(speak_for(100))
    async with client_door() as (_, port), client_of(port) as client:
        await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
        for at in range(0, len(data), 2 * CHUNK_SAMPLES):
            piece = data[at : at + 2 * CHUNK_SAMPLES]
            await client.write_event(AudioChunk(rate=16_000, width=2, channels=1, audio=piece).event())
        first = [await client.read_event(), await client.read_event()]  # before anybody says that it is over
        assert [event.type for event in first if event] == ["transcript-start", "transcript-chunk"]
        await client.write_event(AudioStop().event())
        events = [event for event in first if event] + await answers(client)
        assert text_of(events).count("heard") >= 3


def test_beyond_loopback_it_needs_the_operators_word() -> None:
    open_port = {"wyoming_port": 10300, "wyoming_host": "0.0.0.0", "api_key": "k"}
    with pytest.raises(ConfigError, match="WHISPER_WYOMING_HOST"):
        check_exposure(Settings(_env_file=None, **open_port))
    check_exposure(Settings(_env_file=None, **open_port, allow_unauthenticated=True))
    check_exposure(Settings(_env_file=None, wyoming_port=10300))
    check_exposure(Settings(_env_file=None, wyoming_host="0.0.0.0"))  # no port


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_a_real_server_drains(start_server: StartServer, speech: Sample) -> None:
    """As over HTTP, what the device has not begun is told so, and the process ends well."""
    port = free_port()
    server = start_server("--wyoming-port", str(port))
    async with client_of(port) as client, client_of(port) as idle:
        await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
        audio = pcm(speech.data)
        await client.write_event(AudioChunk(rate=16_000, width=2, channels=1, audio=audio).event())
        await client.write_event(Ping(text="taken").event())
        assert await client.read_event() == Pong(text="taken").event()
        server.process.terminate()
        assert [event.type for event in await answers(idle)] == ["error"]
        await client.write_event(AudioStop().event())
        assert [Error.from_event(event).code for event in await answers(client)] == ["ShuttingDown"]
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert any("path=wyoming status=503" in line for line in server.lines)
    with pytest.raises(ConnectionError):
        await AsyncTcpClient("127.0.0.1", port).connect()


@pytest.mark.real
@pytest.mark.parametrize(("language", "words"), [("de", "Wohnzimmer"), ("es", "salón")])
async def test_the_commands_of_wyoming_faster_whisper(language: str, words: str, tmp_path: Path) -> None:
    folder = real_model("base")
    recording = real_recording(f"rhasspy__wyoming-faster-whisper__living_room_light_{language}.wav")
    settings = Settings(_env_file=None, models=[f"base={folder}"], model="base", cache_dir=tmp_path)
    async with door(settings) as (_, port), client_of(port) as client:
        await say(client, pcm(recording.read_bytes()), Transcribe(language=language))
        assert words.casefold() in text_of(await answers(client)).casefold()
