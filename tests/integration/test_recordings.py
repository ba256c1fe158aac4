"""Recordings as people have them: films in several languages, late sound, sides that cancel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import NANO, SAMPLES
from tests.support.audio_files import Sound, encode, film, samples_of, tone
from tests.support.http_requests import URL, b64, error_of, form
from whisper_server.cli.transcribe import main

pytestmark = pytest.mark.long

ENGLISH = "en-plain-003.flac"
FRENCH = "fr-plain-010.flac"


def spoken(name: str) -> np.ndarray:
    """Return a clip as a film has it, at 48 kHz."""
    samples = samples_of((SAMPLES / name).read_bytes())
    at = np.arange(3 * len(samples)) / 3
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def words_of(name: str) -> str:
    entries = json.loads((SAMPLES / "clips.json").read_text(encoding="utf-8"))
    return next(entry["text"] for entry in entries if entry["file"] == name)


BILINGUAL = film(
    Sound(spoken(FRENCH), language="fre"), Sound(spoken(ENGLISH), language="eng", is_default=True)
)


async def test_the_times_are_those_of_the_film(nano_client: httpx.AsyncClient) -> None:
    async def ask(start_s: float) -> dict[str, Any]:
        data = film(Sound(spoken(ENGLISH), start_s=start_s), container="mp4", picture_s=8)
        fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
        return dict((await nano_client.post(URL, **form(data, **fields))).json())

    at_once, late = await ask(0.0), await ask(3.2)
    assert late["text"] == at_once["text"] == words_of(ENGLISH)
    assert late["duration"] == pytest.approx(at_once["duration"] + 3.2, abs=0.05)
    for kind in ("segments", "words"):
        for early, later in zip(at_once[kind], late[kind], strict=True):
            assert later["start"] == pytest.approx(early["start"] + 3.2, abs=0.15)
            assert later["end"] == pytest.approx(early["end"] + 3.2, abs=0.15)


async def test_the_default_the_asked_language_and_the_number(nano_client: httpx.AsyncClient) -> None:
    async def text(**fields: Any) -> str:
        as_form = (await nano_client.post(URL, **form(BILINGUAL, **fields))).json()["text"]
        as_json = (await nano_client.post(URL, json={"audio": b64(BILINGUAL), **fields})).json()["text"]
        assert as_form == as_json
        return str(as_form)

    english, french = words_of(ENGLISH), words_of(FRENCH)
    assert await text() == english
    assert await text(language="fr") == french
    assert await text(audio_track=0) == french
    assert await text(audio_track="1") == english
    assert await text(audio_track="") == english


async def test_speech_whose_sides_cancel(nano_client: httpx.AsyncClient) -> None:
    samples = samples_of((SAMPLES / ENGLISH).read_bytes())
    response = await nano_client.post(URL, **form(encode(np.stack([samples, -samples]))))
    assert response.json()["text"] == words_of(ENGLISH)


async def test_a_wrong_number_is_told_everywhere(client: httpx.AsyncClient) -> None:
    for path in (URL, "/v1/audio/translations", "/debug/audio-info"):
        for request in (
            form(BILINGUAL, audio_track=2),
            {"json": {"audio": b64(BILINGUAL), "audio_track": 2}},
        ):
            message = error_of(await client.post(path, **request), 400, param="audio_track")
            assert "2 audio tracks, numbered from 0 to 1" in message
    part = {"type": "input_audio", "input_audio": {"data": b64(BILINGUAL), "format": "mkv"}}
    body = {"audio_track": 2, "messages": [{"role": "user", "content": [part]}]}
    error_of(await client.post("/v1/chat/completions", json=body), 400, param="audio_track")
    for value in ("first", "1.5"):
        error_of(await client.post(URL, **form(BILINGUAL, audio_track=value)), 400, param="audio_track")
    streamed = await client.post(URL, **form(BILINGUAL, audio_track=9, stream="true"))
    error_of(streamed, 400, param="audio_track")


async def test_audio_info_lists_the_tracks(client: httpx.AsyncClient) -> None:
    stereo = np.stack([tone(1.0, 48_000)] * 2)
    data = film(
        Sound(tone(2.0, 48_000), language="ger"), Sound(stereo, 1.5, "eng", is_default=True), picture_s=4
    )
    info = (await client.post("/debug/audio-info", **form(data))).json()
    common = {"codec": "aac", "sample_rate_hz": 48_000}
    assert info["tracks"] == [
        {"index": 0, **common, "language": "ger", "default": False, "channels": 1, "start_s": 0.0},
        {
            "index": 1,
            **common,
            "language": "eng",
            "default": True,
            "channels": 2,
            "start_s": pytest.approx(1.5, abs=0.03),
        },
    ]
    assert (info["audio_track"], info["channels"]) == (1, 2)
    assert info["duration_s"] == pytest.approx(2.5, abs=0.05)
    for fields in ({"audio_track": 0}, {"language": "de"}):
        info = (await client.post("/debug/audio-info", **form(data, **fields))).json()
        assert (info["audio_track"], info["channels"]) == (0, 1)
        assert info["duration_s"] == pytest.approx(2.0, abs=0.05)


async def test_by_channel_it_is_the_track_that_has_sound(client: httpx.AsyncClient) -> None:
    sides = np.stack([spoken(ENGLISH), np.roll(spoken(ENGLISH), 40_000)])
    data = film(Sound(np.zeros(48_000, np.float32), is_default=True), Sound(sides))
    response = await client.post(URL, **form(data, response_format="diarized_json"))
    assert response.status_code == 200, response.text
    assert {segment["speaker"] for segment in response.json()["segments"]} == {"A", "B"}
    message = error_of(
        await client.post(URL, **form(data, response_format="diarized_json", audio_track=0)),
        400,
        param="response_format",
    )
    assert "one channel" in message


def test_the_command_line_chooses_a_track(
    monkeypatch: pytest.MonkeyPatch, nano_cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPER_MODEL", str(NANO))
    monkeypatch.setenv("WHISPER_CACHE_DIR", str(nano_cache))
    path = tmp_path / "film.mkv"
    path.write_bytes(BILINGUAL)
    assert main([str(path)]) == 0
    assert main(["--audio-track", "0", str(path)]) == 0
    assert capfd.readouterr().out == f"{words_of(ENGLISH)}\n{words_of(FRENCH)}\n"
    assert main(["--audio-track", "7", str(path)]) == 1
    assert "2 audio tracks" in capfd.readouterr().err
