"""A live session with real weights and recordings: its turns say what uploads of them do."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.support.audio_files import wav_bytes
from tests.support.real_models import real_model, real_recording
from tests.support.realtime_client import heard, pcm16, session, turns_of

pytestmark = pytest.mark.real

RATE_HZ = 16_000
RECORDINGS = (
    "openai__whisper__jfk.flac",
    "moonshine-ai__moonshine__beckett.wav",
    "cmusphinx__pocketsphinx__sense_and_sensibility_01_austen_64kb-0920.wav",
)


def test_a_session_says_what_uploads_of_its_turns_do(start_server: StartServer, real_cache: Path) -> None:
    server = start_server(
        WHISPER_ENGINE="ctranslate2",
        WHISPER_MODEL=str(real_model("base")),
        WHISPER_CACHE_DIR=str(real_cache),
        WHISPER_OFFLINE="true",
    )
    pause = bytes(2 * RATE_HZ)
    said = b"".join(pcm16(real_recording(name).read_bytes(), RATE_HZ) + pause for name in RECORDINGS)
    with session(server.url) as client:
        texts = heard(client, said, RATE_HZ, transcription={"language": "en"})
    assert len(texts) > len(RECORDINGS)
    for text, turn in zip(texts, turns_of(said), strict=True):
        reply = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": wav_bytes(turn, rate=RATE_HZ)},
            data={"language": "en"},
            timeout=120,
        )
        assert text == reply.raise_for_status().json()["text"]
