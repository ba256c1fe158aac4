"""A given text, timed: over HTTP and on the command line."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import NANO, SAMPLES, Sample
from tests.support.audio_files import encode, samples_of
from tests.support.http_requests import URL as TRANSCRIPTIONS
from tests.support.http_requests import b64, error_of, form
from whisper_server.cli.transcribe import main

URL = "/v1/audio/alignments"
TALK = ("en-plain-003.flac", "en-plain-005.flac", "en-plain-001.flac")


def pcm(name: str) -> np.ndarray:
    return samples_of((SAMPLES / name).read_bytes())


async def words_of(client: httpx.AsyncClient, data: bytes, **fields: Any) -> list[dict[str, Any]]:
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": ["word"], **fields}
    return list((await client.post(TRANSCRIPTIONS, **form(data, **asked))).json()["words"])


async def test_a_text_that_is_said_has_the_times_of_the_transcript(
    nano_client: httpx.AsyncClient, speech: Sample
) -> None:
    expected = await words_of(nano_client, speech.data)
    body = (await nano_client.post(URL, **form(speech.data, text=speech.text, language="en"))).json()
    assert body["text"] == speech.text
    (segment,) = body["segments"]
    assert [word["word"] for word in segment["words"]] == speech.text.split()
    for ours, theirs in zip(segment["words"], expected, strict=True):
        assert ours["start"] == pytest.approx(theirs["start"], abs=0.1)
        assert ours["end"] == pytest.approx(theirs["end"], abs=0.1)
        assert 0 < ours["probability"] <= 1
    assert (segment["start"], segment["end"]) == (segment["words"][0]["start"], segment["words"][-1]["end"])


async def test_a_long_recording_and_a_text_that_differs(
    nano_client: httpx.AsyncClient, samples: dict[str, Sample]
) -> None:
    """Several windows: lines lie in their clips, also those whose words are written otherwise."""
    pause = np.zeros(16_000 * 3, np.float32)
    pieces: list[np.ndarray] = []
    lines: list[str] = []
    places: list[tuple[float, float]] = []
    for turn in range(21):
        name = TALK[turn % 3]
        start = sum(map(len, pieces))
        pieces += [pcm(name), pause]
        places.append((start / 16_000, (start + len(pcm(name))) / 16_000))
        words = samples[name].text.split()
        words[1] = "elsewhere" if turn % 5 == 1 and len(words) > 2 else words[1]
        lines.append(" ".join(words))
    data = encode(np.concatenate(pieces), container="flac", codec="flac")
    fields = {"text": "\n\n".join(lines), "language": "en", "response_format": "json"}
    body = (await nano_client.post(URL, **form(data, **fields))).json()
    assert [segment["text"] for segment in body["segments"]] == lines
    for segment, (start_s, end_s) in zip(body["segments"], places, strict=True):
        assert start_s - 0.3 <= segment["start"] < segment["end"] <= end_s + 0.3
    words = [word for segment in body["segments"] for word in segment["words"]]
    assert all(a["end"] <= b["start"] for a, b in pairwise(words))


@pytest.mark.parametrize("shape", ["srt", "vtt", "verbose_json"])
async def test_other_formats(nano_client: httpx.AsyncClient, speech: Sample, shape: str) -> None:
    fields = {"text": speech.text.upper(), "language": "en", "response_format": shape}
    reply = await nano_client.post(URL, json={"audio": b64(speech.data), **fields})
    assert reply.status_code == 200
    assert speech.text.upper() in reply.text
    if shape == "verbose_json":
        assert {"task", "language", "duration", "text", "segments", "words"} <= set(reply.json())


async def test_a_text_of_another_recording_is_refused(nano_client: httpx.AsyncClient, speech: Sample) -> None:
    text = "Colourless green ideas sleep furiously, and nobody wakes them before breakfast."
    reply = await nano_client.post(URL, **form(speech.data, text=text, language="en"))
    assert "not that of this recording" in error_of(reply, 400, param="text")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "text"),
        ({"text": " ... "}, "text"),
        ({"text": "x" * (1 << 20)}, "text"),
        ({"text": "a", "response_format": "text"}, "response_format"),
        ({"text": "a", "language": "klingon"}, "language"),
        ({"text": "a", "audio_track": 7}, "audio_track"),
    ],
)
async def test_wrong_fields(
    client: httpx.AsyncClient, speech: Sample, fields: dict[str, Any], param: str
) -> None:
    if len(fields.get("text", "")) > 1000:
        fields = {"text": fields["text"] + "yz"}
    error_of(await client.post(URL, **form(speech.data, **fields)), 400, param=param)


async def test_silence_has_no_text(client: httpx.AsyncClient) -> None:
    data = encode(np.zeros(32_000, np.float32))
    error_of(await client.post(URL, **form(data, text="anything")), 400, param="text")


def test_the_command_line(
    tmp_path: Path, nano_cache: Path, speech: Sample, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    monkeypatch.setenv("WHISPER_CACHE_DIR", str(nano_cache))
    said = tmp_path / "said.txt"
    said.write_text(speech.text, encoding="utf-8")
    name = str(SAMPLES / "en-plain-000.flac")
    common = ["--model", str(NANO), "--align", str(said), "--language", "en", name]
    assert main(common) == 0
    assert f"\n{speech.text}\n" in capsysbinary.readouterr().out.decode()
    assert main(["--format", "json", *common]) == 0
    assert json.loads(capsysbinary.readouterr().out)["text"] == speech.text
    for wrong in (["--format", "text"], ["--task", "translate"], [name]):
        with pytest.raises(SystemExit, match="2"):
            main([*wrong, *common])
    said.write_bytes(b"\xff\xfe\xfa")
    assert main(common) == 2
