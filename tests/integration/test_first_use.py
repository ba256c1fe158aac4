"""From a repository's name to words: download, convert, load, transcribe; and without the hub ever after."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.conftest import Sample
from tests.support.in_process import MakeSettings, client_of
from tests.support.stand_in_hub import Hub


async def transcribe(client: httpx.AsyncClient, speech: Sample, model: str) -> httpx.Response:
    return await client.post(
        "/v1/audio/transcriptions", files={"file": speech.data}, data={"model": model}, timeout=60
    )


@pytest.mark.long
async def test_first_use_downloads_and_later_ones_need_no_hub(
    stand_in: Hub,
    settings: MakeSettings,
    speech: Sample,
) -> None:
    fields = {"engine": "ctranslate2", "models": "theirs=someone/nano,again=someone/nano", "threads": 1}
    async with client_of(settings(**fields)) as client:
        for name in ("theirs", "again"):
            reply = await transcribe(client, speech, name)
            assert (reply.status_code, reply.json()["text"]) == (200, speech.text)
        models = (await client.get("/health")).json()["models"]
        assert len(models) == 1  # two names of one repository are one model
    assert "model.safetensors" in stand_in.downloaded()
    assert "pytorch_model.bin" not in stand_in.downloaded()

    seen = len(stand_in.seen)
    stand_in.refuse = 500
    async with client_of(settings(**fields)) as client:
        assert (await transcribe(client, speech, "theirs")).json()["text"] == speech.text
    assert len(stand_in.seen) == seen


async def test_a_model_that_is_deleted_in_its_first_conversion_leaves_nothing(
    stand_in: Hub, settings: MakeSettings, speech: Sample
) -> None:
    made = settings(engine="ctranslate2", models="theirs=someone/nano", threads=1, allow_delete=True)
    converted = made.cache_dir / "converted"
    async with client_of(made) as client:
        reply = asyncio.create_task(transcribe(client, speech, "theirs"))
        while not (converted.is_dir() and list(converted.iterdir())):
            assert not reply.done()
            await asyncio.sleep(0)
        assert (await client.delete("/v1/models/theirs")).status_code == 200
        # The request has the model where its conversion was over a moment before.
        assert (await reply).status_code in {200, 503}
    assert stand_in.downloaded()
    assert list(converted.iterdir()) == []
    assert not list(made.cache_dir.rglob("*.safetensors"))


@pytest.mark.parametrize("offline", [False, True])
async def test_no_hub_is_a_503_that_names_the_model(
    monkeypatch: pytest.MonkeyPatch, settings: MakeSettings, speech: Sample, offline: bool
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: no process listens there
    async with client_of(settings(engine="ctranslate2", offline=offline)) as client:
        reply = await transcribe(client, speech, "whisper-1")
        error = reply.json()["error"]
        assert reply.status_code == 503
        assert error["code"] == "model_unavailable"
        assert "whisper-tiny" in error["message"]
        assert ("retry-after" in reply.headers) is not offline  # without a network no retry helps
        assert (await client.get("/health")).json()["models"] == []
