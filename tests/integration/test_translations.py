"""POST /v1/audio/translations: speech of any language becomes English text."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import SAMPLES, Sample, all_samples
from tests.support.http_requests import b64, error_of, form

TRANSLATIONS = "/v1/audio/translations"
ENGLISH = {"de-translate-040.flac": "coffee green bird book door", "es-translate-042.flac": "nine six"}
CLIPS = [sample for sample in all_samples() if sample.name in ENGLISH]


def test_the_samples_say_so() -> None:
    clips = (SAMPLES / "clips.json").read_text(encoding="utf-8")
    assert all(f'"{text}"' in clips for text in ENGLISH.values())
    assert all(sample.is_robust and sample.kind == "translate" for sample in CLIPS)
    assert len(CLIPS) == 2


@pytest.mark.parametrize("sample", CLIPS, ids=lambda sample: sample.language)
async def test_real_speech_becomes_english(nano_client: httpx.AsyncClient, sample: Sample) -> None:
    english = ENGLISH[sample.name]

    async def ask(**fields: str) -> httpx.Response:
        response = await nano_client.post(TRANSLATIONS, **form(sample.data, model="nano-whisper", **fields))
        assert response.status_code == 200, response.text
        return response

    # Nothing but the text; and what a translation has no field for is ignored.
    assert (await ask(language="en", stream="true")).json() == {"text": english}
    verbose = (await ask(response_format="verbose_json", **{"timestamp_granularities[]": "word"})).json()
    assert set(verbose) == {"task", "language", "duration", "text", "segments"}
    assert (verbose["task"], verbose["language"], verbose["text"]) == ("translate", "english", english)
    assert verbose["duration"] == pytest.approx(sample.duration_s, abs=0.01)
    assert (await ask(response_format="text")).text == english + "\n"
    assert (await ask(response_format="srt")).text.startswith("1\n00:00:00,")
    assert (await ask(response_format="vtt")).text.startswith("WEBVTT\n\n")


async def test_a_json_body_is_taken_too(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(TRANSLATIONS, json={"audio": b64(speech.data), "prompt": "Tea"})
    assert set(response.json()) == {"text"}
    assert response.json()["text"].endswith(" after Tea")


async def test_wrong_values_are_named(client: httpx.AsyncClient, speech: Sample) -> None:
    for fields, param, code in [
        ({"response_format": "diarized_json"}, "response_format", None),
        ({"temperature": "2"}, "temperature", None),
        ({"temperature": "hot"}, "temperature", None),
    ]:
        error_of(await client.post(TRANSLATIONS, **form(speech.data, **fields)), 400, param=param, code=code)
    response = await client.post(TRANSLATIONS, **form(speech.data, model="nobody"))
    error_of(response, 404, param="model", code="model_not_found")
    error_of(await client.post(TRANSLATIONS, data={"model": "whisper-1"}), 400, param="file")
