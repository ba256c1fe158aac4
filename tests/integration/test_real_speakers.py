"""Real voices, with the voice encoder of the tests: the floor of what telling them apart is worth."""

from __future__ import annotations

import io
import re
import wave
from collections.abc import AsyncIterator

import pytest

from tests.support.real_models import real_recording
from tests.support.speaker_networks import ENCODER, ENCODER_THRESHOLD
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams, VoiceOptions
from whisper_server.services.container import Services, open_services

pytestmark = pytest.mark.real


@pytest.fixture
async def services(base_settings: Settings) -> AsyncIterator[Services]:
    voices = {
        "speaker_encoder": str(ENCODER),
        "speaker_segmentation": "none",
        "speaker_threshold": ENCODER_THRESHOLD,
    }
    async with open_services(base_settings.model_copy(update=voices)) as opened:
        yield opened


async def test_three_people_are_three_speakers(services: Services) -> None:
    stream = services.audio.open(real_recording("Picovoice__falcon__test.wav"))
    turns = await services.speakers.of(stream, await services.speakers.known((), VoiceOptions()))
    truth = [(1.70, 3.90, "A"), (6.20, 11.10, "B"), (12.80, 18.00, "C")]
    for start_s, end_s, speaker in truth:
        mine = [turn for turn in turns if turn.speaker == speaker]
        assert min(turn.start_s for turn in mine) == pytest.approx(start_s, abs=0.5)
        assert max(turn.end_s for turn in mine) == pytest.approx(end_s, abs=0.5)


async def test_every_word_has_its_speaker(services: Services) -> None:
    path = real_recording("Picovoice__leopard__diarization_test.wav")
    params = TranscribeParams(services.catalog.resolve("base"), language="en", speakers=())
    transcript = await services.transcriber.transcribe(path, params)
    said = {
        speaker: "".join(s.text for s in transcript.segments if s.speaker == speaker).lower()
        for speaker in "ABC"
    }
    said = {speaker: re.sub(r"[^a-z ]", "", text) for speaker, text in said.items()}
    assert {segment.speaker for segment in transcript.segments} == {"A", "B", "C"}
    assert said["A"].split()[-4:] == ["and", "so", "it", "begins"]
    assert {"crocodile", "meditating", "water"} <= set(said["B"].split())
    assert {"ladies", "gentlemen", "turbulence"} <= set(said["C"].split())


async def test_a_known_voice_has_its_name(services: Services) -> None:
    """Who speaks second is known by the beginning of her part."""
    path = real_recording("Picovoice__falcon__test.wav")
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        file.setpos(int(6.4 * rate))
        sample = file.readframes(int(2.5 * rate))
        layout = file.getparams()
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams(layout)
        file.writeframes(sample)
    known = await services.speakers.known(("Ada",), VoiceOptions((out.getvalue(),)))
    turns = await services.speakers.of(services.audio.open(path), known)
    assert list(dict.fromkeys(turn.speaker for turn in turns)) == ["A", "Ada", "B"]
