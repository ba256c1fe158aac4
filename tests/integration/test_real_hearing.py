"""With real weights: noise and music get no text and one look each, plain silence not even that."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.audio_files import encode, noises
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams
from whisper_server.services.container import Services, open_services

pytestmark = pytest.mark.real


@pytest.fixture
async def services(base_settings: Settings) -> AsyncIterator[Services]:
    async with open_services(base_settings) as opened:
        yield opened


@pytest.mark.parametrize("kind", sorted(noises(1.0)))
async def test_what_is_no_speech_gets_no_text(services: Services, kind: str) -> None:
    params = TranscribeParams(services.catalog.resolve("base"))
    transcription = await services.transcriber.open(encode(noises(20.0)[kind]), params)
    assert (await transcription.collect()).text == ""
    assert transcription.windows_done == (0 if kind == "zero" else 1)
