"""Every response format, to the byte, against golden files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import Segment, TokenScore, Transcript, Word, main_language
from whisper_server.services.rendering.formats import FORMATS, render

GOLDEN = Path(__file__).parents[2] / "golden"


def segment(start_s: float, end_s: float, text: str, words: tuple[Word, ...] = ()) -> Segment:
    return Segment(start_s, end_s, text, (50364, 11, 50400), 0.0, -0.25, 1.1, 0.01, "fr", 0, words)


TALK = Transcript(
    task="transcribe",
    language="fr",
    duration_s=3725.5,
    segments=(
        segment(0.0, 1.28, " fenêtre rouge"),
        segment(59.9996, 61.0, " a --> b\n c"),
        segment(3661.5, 3725.2, " café."),
    ),
)


@pytest.mark.parametrize(
    ("name", "file"),
    [("srt", "talk.srt"), ("vtt", "talk.vtt"), ("text", "talk.txt"), ("json", "talk.json"),
     ("verbose_json", "talk.verbose.json")],
)  # fmt: skip
def test_golden(name: str, file: str) -> None:
    body, media_type = render(TALK, name)
    assert body == (GOLDEN / file).read_text(encoding="utf-8")
    is_json = name in {"json", "verbose_json"}
    assert media_type == ("application/json" if is_json else "text/plain; charset=utf-8")


def test_verbose_json_has_all_ten_segment_fields_and_the_english_language_name() -> None:
    body = json.loads(render(TALK, "verbose_json")[0])
    assert body["language"] == "french"
    assert body["duration"] == 3725.5
    assert body["usage"] == {"type": "duration", "seconds": 3726}
    assert set(body["segments"][0]) == {
        "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio",
        "no_speech_prob", "language",
    }  # fmt: skip
    assert body["segments"][0]["language"] == "fr"
    assert body["language_probability"] == 1.0
    assert [s["id"] for s in body["segments"]] == [0, 1, 2]
    assert "words" not in body


def test_words_are_top_level() -> None:
    words = (Word("fenêtre", 0.1, 0.5, 0.9), Word("rouge", 0.5, 1.0, 0.9))
    said = (segment(0.0, 1.28, " fenêtre rouge", words),)
    talk = Transcript("transcribe", "fr", 2.0, said, shows_words=True)
    assert json.loads(render(talk, "verbose_json")[0])["words"] == [
        {"word": "fenêtre", "start": 0.1, "end": 0.5},
        {"word": "rouge", "start": 0.5, "end": 1.0},
    ]


@pytest.mark.parametrize(("shows_segments", "shows_words"), [(True, False), (True, True), (False, True)])
def test_verbose_json_has_what_was_asked_for_even_where_nothing_was_said(
    shows_segments: bool, shows_words: bool
) -> None:
    for said in ((), TALK.segments):
        talk = Transcript(
            "transcribe", "fr", 2.0, said, shows_segments=shows_segments, shows_words=shows_words
        )
        body = json.loads(render(talk, "verbose_json")[0])
        assert ("segments" in body, "words" in body) == (shows_segments, shows_words)


def test_logprobs_are_in_json_only() -> None:
    scores = (TokenScore(" \N{REPLACEMENT CHARACTER}", b" \xc3", -0.5), TokenScore("x", b"x", 0.0))
    said = (replace(TALK.segments[0], scores=scores), replace(TALK.segments[1], scores=scores[1:]))
    talk = replace(TALK, segments=said, shows_logprobs=True)
    assert json.loads(render(talk, "json")[0])["logprobs"] == [
        {"token": " \N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [32, 195]},
        {"token": "x", "logprob": 0.0, "bytes": [120]},
        {"token": "x", "logprob": 0.0, "bytes": [120]},
    ]
    assert "logprobs" not in json.loads(render(talk, "verbose_json")[0])
    assert "logprobs" not in json.loads(render(replace(talk, shows_logprobs=False), "json")[0])


def test_silence_in_every_format() -> None:
    silence = Transcript("transcribe", "", 4.0)
    assert render(silence, "text")[0] == "\n"
    assert render(silence, "srt")[0] == ""
    assert render(silence, "vtt")[0] == "WEBVTT\n\n"
    assert json.loads(render(silence, "json")[0]) == {"text": "", "usage": {"type": "duration", "seconds": 4}}
    verbose = json.loads(render(silence, "verbose_json")[0])
    assert (verbose["text"], verbose["segments"], verbose["language"]) == ("", [], "english")
    assert "language_probability" not in verbose


def test_diarized_json_has_a_line_per_turn() -> None:
    said = [(" Hello", "Ada"), (" there.", "Ada"), (" Hi.", "B")]
    segments = tuple(replace(segment(i, i + 0.5, text), speaker=who) for i, (text, who) in enumerate(said))
    body, media_type = render(Transcript("transcribe", "en", 3.0, segments), "diarized_json")
    assert media_type == "application/json"
    assert json.loads(body) == {
        "task": "transcribe",
        "duration": 3.0,
        "text": "Ada: Hello there.\nB: Hi.",
        "segments": [
            {
                "type": "transcript.text.segment",
                "id": f"seg_00{i + 1}",
                "start": i,
                "end": i + 0.5,
                "text": text.strip(),
                "speaker": who,
                "language": "fr",
            }
            for i, (text, who) in enumerate(said)
        ],
        "usage": {"type": "duration", "seconds": 3},
    }


def test_json_names_the_language_where_the_request_named_some() -> None:
    assert json.loads(render(replace(TALK, shows_languages=True), "json")[0])["languages"] == [{"code": "fr"}]
    silence = Transcript("transcribe", "", 4.0, shows_languages=True)
    assert json.loads(render(silence, "json")[0])["languages"] == []


def test_languages_come_with_most_of_the_speech_first() -> None:
    said = tuple(
        replace(segment(start_s, end_s, " x"), language=code, language_probability=probability)
        for start_s, end_s, code, probability in [
            (0.0, 2.0, "en", 0.9), (2.0, 5.0, "de", 0.8), (5.0, 6.0, "de", 0.4), (6.0, 7.0, "fr", 1.0)
        ]
    )  # fmt: skip
    assert main_language(said) == ("de", pytest.approx((3 * 0.8 + 0.4) / 4))
    assert main_language(()) == ("", 0.0)
    talk = Transcript("transcribe", "de", 7.0, said, language_probability=0.7, shows_languages=True)
    assert json.loads(render(talk, "json")[0])["languages"] == [{"code": code} for code in ("de", "en", "fr")]
    verbose = json.loads(render(talk, "verbose_json")[0])
    assert (verbose["language"], verbose["language_probability"]) == ("german", 0.7)
    assert [each["language"] for each in verbose["segments"]] == ["en", "de", "de", "fr"]


def test_a_translation_is_english_and_tells_what_was_spoken() -> None:
    verbose = json.loads(render(replace(TALK, task="translate"), "verbose_json")[0])
    assert verbose["language"] == "english"
    assert "language_probability" not in verbose
    assert {each["language"] for each in verbose["segments"]} == {"fr"}


def test_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="json, text, srt, verbose_json, vtt") as caught:
        render(TALK, "yaml" * 1000)
    assert caught.value.param == "response_format"
    assert len(caught.value.message) < 200


def test_text_is_the_same_in_every_format() -> None:
    for name in FORMATS:
        body = render(TALK, name)[0]
        if name in {"json", "verbose_json"}:
            assert json.loads(body)["text"] == TALK.text
    assert render(TALK, "text")[0] == TALK.text + "\n"
