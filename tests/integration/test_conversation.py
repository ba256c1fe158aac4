"""A conversation without sockets: clients that take nothing, and work that there is no room for."""

from __future__ import annotations

import asyncio
import base64
import itertools
import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Sample
from tests.support.in_process import MakeSettings
from tests.support.realtime_client import pcm16
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.admission import Admission, Limits
from whisper_server.services.container import Services, open_services
from whisper_server.services.realtime.configuration import SessionConfig
from whisper_server.services.realtime.conversation import Conversation, Means
from whisper_server.services.realtime.params import params_of
from whisper_server.services.realtime.session import Session
from whisper_server.services.realtime.turn_decoder import TurnDecoder

if TYPE_CHECKING:
    from whisper_server.core.types import Samples, TranscribeParams, Transcript

TIMEOUT_S = 60
LONG_S = 310  # of sound, more than a session has without being asked (`UNTOLD_S`)


@pytest.fixture
async def services(settings: MakeSettings) -> AsyncIterator[Services]:
    async with open_services(settings()) as opened:
        yield opened


def updated(**audio_input: Any) -> dict[str, Any]:
    return {
        "type": "session.update",
        "session": {"type": "transcription", "audio": {"input": {"turn_detection": None, **audio_input}}},
    }


def append(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}


COMMIT = {"type": "input_audio_buffer.commit"}


class Recording(TurnDecoder):
    """A decoder that remembers what it was asked for."""

    def __init__(self, services: Services) -> None:
        super().__init__(services.transcriber, services.models)
        self.asked: list[tuple[str, float]] = []  # kind, seconds of sound
        self.came = asyncio.Event()

    async def turn(self, samples: Samples, params: TranscribeParams) -> Transcript:
        self._note("turn", samples)
        return await super().turn(samples, params)

    async def early(self, samples: Samples, params: TranscribeParams) -> Transcript:
        self._note("early", samples)
        return await super().early(samples, params)

    def _note(self, kind: str, samples: Samples) -> None:
        self.asked.append((kind, len(samples) / SAMPLE_RATE))
        self.came.set()


class Client:
    """Says events one by one, and has what came back in `seen`."""

    def __init__(self, services: Services, admission: Admission | None = None) -> None:
        self.decoder = Recording(services)
        self.seen: list[dict[str, Any]] = []
        self.leaves_at: str | None = None  # type of an event
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.came = asyncio.Condition()
        self._incoming: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        numbers = itertools.count()
        session = Session(
            SessionConfig(), partial(params_of, catalog=services.catalog),
            new_id=lambda prefix: f"{prefix}_{next(numbers)}", expires_at=7,
        )  # fmt: skip
        self.slot = (admission or services.admission).enter()
        means = Means(self.decoder, services.pool, services.metrics, self.slot, self._take)
        self._conversation = Conversation(session, means)

    async def run(self) -> None:
        with self.slot:
            await self._conversation.run(self._events())

    def say(self, *events: dict[str, Any] | None) -> None:
        for event in events:
            self._incoming.put_nowait(event)

    async def until(self, is_there: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S), self.came:
            await self.came.wait_for(is_there)

    def of(self, ending: str) -> list[dict[str, Any]]:
        return [event for event in self.seen if event["type"].endswith(ending)]

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        while (event := await self._incoming.get()) is not None:
            yield event

    async def _take(self, event: dict[str, Any]) -> None:
        await self.may_take.wait()
        if self.leaves_at and event["type"].endswith(self.leaves_at):
            raise ClientDisconnected
        async with self.came:
            self.seen.append(event)
            self.came.notify_all()


async def test_a_turn_without_room_fails_and_the_session_goes_on(services: Services, speech: Sample) -> None:
    admission = Admission(Limits(requests=4, audio_s=60.0, upload_bytes=1 << 30))
    other = admission.enter()
    other.expect(50.0)
    client = Client(services, admission)
    running = asyncio.create_task(client.run())
    client.say(updated(format={"type": "audio/pcm", "rate": 8_000}), append(bytes(16_000)), COMMIT)
    await client.until(lambda: len(client.of(".completed")) == 1)
    clip = pcm16(speech.data, 8_000)
    client.say(append(clip * math.ceil(LONG_S / speech.duration_s)), COMMIT)
    await client.until(lambda: len(client.of(".failed")) == 1)
    assert client.of(".failed")[0]["error"]["type"] == "rate_limit_error"
    other.leave()
    client.say(append(clip), COMMIT, None)
    await running
    assert len(client.of(".completed")) == 2
    assert admission.state().requests == 0


async def test_a_client_that_is_gone_ends_its_session_at_once(services: Services, speech: Sample) -> None:
    """Also one that says nothing more, and is only found out when it gets a turn's text."""
    client = Client(services)
    client.leaves_at = ".completed"
    client.say(updated(), append(pcm16(speech.data)), COMMIT)
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(ClientDisconnected):
            await client.run()
    assert services.admission.state().requests == 0


async def test_no_event_is_lost_where_a_client_takes_them_slowly(services: Services, speech: Sample) -> None:
    """A draft is cancelled by its turn's end while what it says waits to be taken."""
    client = Client(services)
    running = asyncio.create_task(client.run())
    client.say(updated(transcription={"delay": "minimal"}))
    await client.until(lambda: bool(client.of("session.updated")))
    client.may_take.clear()
    data = pcm16(speech.data)
    for first in range(0, len(data), 4_800):
        client.say(append(data[first : first + 4_800]))
    client.say(COMMIT, append(data), COMMIT, {"type": "input_audio_buffer.clear"}, None)
    for _ in range(200):
        await asyncio.sleep(0)
    client.may_take.set()
    async with asyncio.timeout(TIMEOUT_S):
        await running
    numbers = [int(event["event_id"].rpartition("_")[2]) for event in client.seen]
    assert numbers == sorted(numbers)
    assert len(client.of(".committed")) == len(client.of(".completed")) == 2
    assert len(client.of(".cleared")) == 1
    for completed in client.of(".completed"):
        deltas = [each["delta"] for each in client.of(".delta") if each["item_id"] == completed["item_id"]]
        assert "".join(deltas) == completed["transcript"]


DETECTED = updated(
    format={"type": "audio/pcm", "rate": 8_000},
    turn_detection={"type": "server_vad", "silence_duration_ms": 1_920},
)
PAUSE, SILENCE = bytes(2 * 4_000), bytes(2 * 24_000)  # 0.5 s and 3 s: not yet the end of a turn, and its end


async def test_a_turn_is_decoded_in_the_silence_that_ends_it(services: Services, speech: Sample) -> None:
    client = Client(services)
    running = asyncio.create_task(client.run())
    client.say(DETECTED, append(pcm16(speech.data, 8_000)), append(PAUSE))
    async with asyncio.timeout(TIMEOUT_S):
        await client.decoder.came.wait()
    client.say(append(SILENCE))
    await client.until(lambda: len(client.of(".completed")) == 1)
    client.say(None)
    await running
    [(kind, decoded_s)] = client.decoder.asked
    assert kind == "early"
    assert decoded_s < client.of(".completed")[0]["usage"]["seconds"]


async def test_somebody_who_goes_on_after_a_pause_is_decoded_with_what_was_before(
    services: Services, speech: Sample
) -> None:
    client = Client(services)
    running = asyncio.create_task(client.run())
    clip = pcm16(speech.data, 8_000)
    client.say(DETECTED, append(clip), append(PAUSE))
    async with asyncio.timeout(TIMEOUT_S):
        await client.decoder.came.wait()
    client.say(append(clip), append(SILENCE), None)
    async with asyncio.timeout(TIMEOUT_S):
        await running
    assert len(client.of(".completed")) == 1
    (_, first_s), *_, (_, last_s) = client.decoder.asked
    assert first_s < speech.duration_s + 0.5
    assert last_s > 2 * speech.duration_s
