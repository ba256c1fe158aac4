"""What a client asks for beside the text: segments, words, log-probabilities."""

from __future__ import annotations

import math

import httpx
import pytest

from tests.conftest import Sample
from tests.support.audio_files import wav_bytes
from tests.support.http_requests import URL, b64, form


@pytest.mark.long
@pytest.mark.parametrize(
    ("granularities", "has_segments", "has_words"),
    [
        ([], True, False),
        (["segment"], True, False),
        (["word"], False, True),
        (["word", "word"], False, True),
        (["segment", "word"], True, True),
    ],
)
@pytest.mark.parametrize("is_silent", [False, True])
async def test_granularities(
    client: httpx.AsyncClient,
    speech: Sample,
    granularities: list[str],
    has_segments: bool,
    has_words: bool,
    is_silent: bool,
) -> None:
    data = wav_bytes(bytes(32_000)) if is_silent else speech.data
    verbose = {"response_format": "verbose_json"}
    bodies = [
        form(data, **verbose, **{"timestamp_granularities[]": granularities}),
        form(data, **verbose, timestamp_granularities=granularities),
        {"json": {"audio": b64(data), **verbose, "timestamp_granularities": granularities}},
    ]
    for body in bodies:
        reply = (await client.post(URL, **body)).json()
        assert ("segments" in reply, "words" in reply) == (has_segments, has_words)
        if has_words:
            assert " ".join(word["word"] for word in reply["words"]) == reply["text"]


@pytest.mark.parametrize("name", ["include[]", "include"])
async def test_real_logprobs_are_the_tokens_of_the_text(
    nano_client: httpx.AsyncClient, samples: dict[str, Sample], name: str
) -> None:
    for sample in (samples["fr-plain-016.flac"], samples["en-plain-003.flac"]):
        plain = (await nano_client.post(URL, **form(sample.data))).json()
        reply = (await nano_client.post(URL, **form(sample.data, **{name: "logprobs"}))).json()
        said = bytes(byte for token in reply["logprobs"] for byte in token["bytes"]).decode()
        assert said.strip() == reply["text"] == plain["text"]
        assert all(math.isfinite(token["logprob"]) and token["logprob"] <= 0 for token in reply["logprobs"])
        # The model is sure of most of what it hears right.
        assert sorted(token["logprob"] for token in reply["logprobs"])[len(reply["logprobs"]) // 2] > -1.0
        assert "logprobs" not in plain


async def test_logprobs_in_the_json_body(client: httpx.AsyncClient, speech: Sample) -> None:
    for include in ("logprobs", ["logprobs"]):
        reply = (await client.post(URL, json={"audio": b64(speech.data), "include": include})).json()
        assert "".join(token["token"] for token in reply["logprobs"]).strip() == reply["text"]
    reply = (await client.post(URL, json={"audio": b64(speech.data), "include": []})).json()
    assert "logprobs" not in reply


async def test_silence_has_no_logprobs(client: httpx.AsyncClient) -> None:
    reply = (await client.post(URL, **form(wav_bytes(bytes(32_000)), include="logprobs"))).json()
    assert (reply["text"], reply["logprobs"]) == ("", [])


@pytest.mark.parametrize(
    ("value", "response_format"),
    [("logits", "json"), ("logprobs", "verbose_json"), ("logprobs", "text"), ("logprobs", "srt")],
)
async def test_refused_with_the_name_of_the_parameter(
    client: httpx.AsyncClient, speech: Sample, value: str, response_format: str
) -> None:
    fields = {"include[]": value, "response_format": response_format}
    response = await client.post(URL, **form(speech.data, **fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "include"


async def test_the_official_client_reads_them_strictly(client: httpx.AsyncClient, speech: Sample) -> None:
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(
        api_key="none",
        base_url="http://localhost/v1",
        http_client=client,
        max_retries=0,
        _strict_response_validation=True,
    ) as official:
        create = official.audio.transcriptions.create
        reply = await create(file=speech.data, model="whisper-1", include=["logprobs"])
        assert "".join(token.token for token in reply.logprobs).strip() == reply.text
        for granularities in (["word"], ["segment"], ["word", "segment"]):
            verbose = await create(
                file=speech.data,
                model="whisper-1",
                response_format="verbose_json",
                timestamp_granularities=granularities,
            )
            assert (verbose.words is not None) == ("word" in granularities)
            assert (verbose.segments is not None) == ("segment" in granularities)
        with pytest.raises(openai.BadRequestError, match="include"):
            await create(
                file=speech.data, model="whisper-1", response_format="verbose_json", include=["logprobs"]
            )
