"""Subtitles over HTTP and from the shell: their options, and the real engine's times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import NANO, Sample, all_samples
from tests.support.http_requests import URL, b64, error_of, form
from tests.support.subtitle_files import Shown, check_times, parse_srt, parse_vtt
from whisper_server.api.requests.bodies import TranscriptionFields
from whisper_server.cli.arguments import PROG, build_parser
from whisper_server.cli.transcribe import main
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options

SPOKEN = [sample for sample in all_samples() if sample.is_robust and sample.kind == "plain"][::3]


def text_of(cues: list[Shown]) -> str:
    return " ".join(line for cue in cues for line in cue.lines)


@pytest.mark.long
@pytest.mark.parametrize("sample", SPOKEN, ids=[sample.name for sample in SPOKEN])
async def test_real_speech_has_legal_cues_with_the_text_of_json(
    nano_client: httpx.AsyncClient, sample: Sample
) -> None:
    srt = await nano_client.post(URL, **form(sample.data, response_format="srt"))
    vtt = await nano_client.post(URL, **form(sample.data, response_format="vtt"))
    cues = parse_srt(srt.text)
    assert parse_vtt(vtt.text) == cues
    check_times(cues, sample.duration_s)
    assert text_of(cues) == sample.text
    assert all(len(cue.lines) <= 2 and max(map(len, cue.lines)) <= 42 for cue in cues)


async def test_real_cues_have_the_times_of_their_words(nano_client: httpx.AsyncClient) -> None:
    sample = max(SPOKEN, key=lambda sample: sample.duration_s)
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    words = (await nano_client.post(URL, **form(sample.data, **fields))).json()["words"]
    options = {"response_format": "srt", "max_lines": 1, "max_line_chars": 20}
    cues = parse_srt((await nano_client.post(URL, **form(sample.data, **options))).text)
    assert len(cues) > 2
    for cue in cues:
        [line] = cue.lines
        assert len(line) <= 20
        mine, words = words[: len(line.split())], words[len(line.split()) :]
        assert [word["word"] for word in mine] == line.split()
        assert cue.start_ms == pytest.approx(mine[0]["start"] * 1000, abs=6)


@pytest.mark.parametrize("response_format", ["srt", "vtt"])
async def test_options_as_form_and_as_json(
    client: httpx.AsyncClient, speech: Sample, response_format: str
) -> None:
    options: dict[str, Any] = {
        "response_format": response_format,
        "max_line_chars": 12,
        "max_cue_seconds": 60,
    }
    parse = parse_srt if response_format == "srt" else parse_vtt
    as_form = parse((await client.post(URL, **form(speech.data, **options))).text)
    as_json = parse((await client.post(URL, json={"audio": b64(speech.data), **options})).text)
    assert as_form == as_json
    assert text_of(as_form).startswith("heard ")
    assert [len(cue.lines) for cue in as_form] == [2]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_line_chars", "9"),
        ("max_line_chars", "many"),
        ("max_lines", "0"),
        ("max_lines", "1.5"),
        ("max_cue_seconds", "0.5"),
        ("max_cue_seconds", "nan"),
    ],
)
async def test_options_out_of_bounds_are_refused(
    client: httpx.AsyncClient, speech: Sample, param: str, value: str
) -> None:
    options = {"response_format": "vtt", param: value}
    assert param in error_of(await client.post(URL, **form(speech.data, **options)), 400, param=param)
    as_json = await client.post(URL, json={"audio": b64(speech.data), **options})
    error_of(as_json, 400, param=param)


async def test_other_formats_ignore_the_options(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(URL, **form(speech.data, response_format="text", max_lines="99"))
    assert response.status_code == 200


def test_the_shell_has_the_same_options(
    monkeypatch: pytest.MonkeyPatch, nano_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPER_MODEL", str(NANO))
    monkeypatch.setenv("WHISPER_CACHE_DIR", str(nano_cache))
    clip = str(NANO / "samples" / "en-plain-005.flac")
    limits = ["--max-line-chars", "20", "--max-lines", "1", "--max-cue-seconds", "3"]
    assert main(["--format", "srt", *limits, clip]) == 0
    cues = parse_srt(capfd.readouterr().out)
    check_times(cues, 11.06, 3000)
    assert text_of(cues) == "always apple people coffee mountain open right three cat table"
    assert all(len(cue.lines) == 1 and len(cue.lines[0]) <= 20 for cue in cues)


def test_the_shell_refuses_what_is_out_of_bounds(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--format", "vtt", "--max-lines", "9", "x.wav"]) == 2
    assert "max_lines is 9" in capfd.readouterr().err


def test_the_defaults_are_the_same_everywhere() -> None:
    fields = TranscriptionFields()
    flags = build_parser(PROG).parse_args(["x.wav"])
    for limits in (fields, flags):
        given = check_options(limits.max_line_chars, limits.max_lines, limits.max_cue_seconds)
        assert given == SubtitleOptions()
