"""The same request gives the same text with real weights, also from attempts above temperature 0."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from tests.conftest import Sample
from tests.support.audio_files import encode, samples_of
from tests.support.in_process import client_of
from whisper_server.core.config import Settings

pytestmark = pytest.mark.real
URL = "/v1/audio/transcriptions"


@pytest.fixture
def base(base_settings: Settings) -> Settings:
    return base_settings.model_copy(update={"vad": False})  # which would leave noise out


@pytest.fixture
async def client(base: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(base) as opened:
        yield opened


@pytest.fixture
def unclear(samples: dict[str, Sample]) -> list[bytes]:
    """Speech in louder noise: no first attempt is sure."""
    chance = np.random.default_rng(0)
    made = []
    for name in ("en-plain-001.flac", "en-plain-003.flac"):
        speech = samples_of(samples[name].data)
        noise = chance.standard_normal(len(speech), np.float32) * 3 * speech.std()
        made.append(encode((speech + noise) / 16))
    return made


async def ask(client: httpx.AsyncClient, audio: bytes, **fields: str) -> httpx.Response:
    response = await client.post(URL, files={"file": audio}, data={"language": "en", **fields})
    assert response.status_code == 200, response.text
    return response


async def texts(client: httpx.AsyncClient, audios: list[bytes], **fields: str) -> list[str]:
    """Ask for all at once."""
    replies = await asyncio.gather(*[ask(client, audio, **fields) for audio in audios])
    return [reply.json()["text"] for reply in replies]


async def test_alone_in_a_crowd_in_another_format_and_after_a_restart(
    base: Settings, unclear: list[bytes], speech: Sample
) -> None:
    async with client_of(base) as client:
        # A temperature, because which recordings fall back to one depends on the processor too.
        verbose = [
            (await ask(client, audio, response_format="verbose_json", temperature="0.4")).json()
            for audio in unclear
        ]
        assert {part["temperature"] for one in verbose for part in one["segments"]} == {0.4}
        alone = [one["text"] for one in verbose]
        assert await texts(client, unclear[::-1], temperature="0.4") == alone[::-1]
        several = [*unclear, *[speech.data] * 12, *unclear[::-1]]
        crowd = await texts(client, several, temperature="0.4")
        assert crowd[:2] == alone
        assert crowd[-2:] == alone[::-1]
    async with client_of(base) as client:
        assert await texts(client, unclear[1:], temperature="0.4") == alone[1:]


async def test_a_given_temperature_draws_by_the_seed(client: httpx.AsyncClient, unclear: list[bytes]) -> None:
    audio = unclear[0]
    by_seed = [
        (await ask(client, audio, temperature="0.8", seed=str(seed))).json()["text"] for seed in range(4)
    ]
    assert len(set(by_seed)) > 1
    assert await texts(client, [audio] * 4, temperature="0.8", seed="2") == [by_seed[2]] * 4
    assert await texts(client, [audio], temperature="0.8") == by_seed[:1]  # 0 where none is given


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Welcome to the lecture on Kubernetes and Istio. Today we talk about services."},
        {"prompt": "Thank you for watching."},
        {"keywords": "Kubernetes, Istio, Grafana, Prometheus"},
    ],
)
async def test_a_prompt_is_no_answer(
    client: httpx.AsyncClient, speech: Sample, fields: dict[str, str]
) -> None:
    said = await texts(client, [speech.data], **fields)
    assert said[0]
    given = set("".join(fields.values()).lower().replace(",", "").replace(".", "").split())
    assert not given & set(said[0].lower().replace(",", "").replace(".", "").split())
