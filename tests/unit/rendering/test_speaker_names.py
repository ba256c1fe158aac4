"""Who speaks, in each format that has a place for it."""

from __future__ import annotations

import json

import pytest

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import Segment, Transcript, Turn, Word
from whisper_server.services.rendering.formats import render, render_turns
from whisper_server.services.rendering.subtitles import SubtitleOptions, cues


def said(speaker: str, start_s: float, text: str, language: str = "en") -> Segment:
    words = text.split() if language == "en" else [text]
    return Segment(
        start_s=start_s,
        end_s=start_s + 0.4 * len(words),
        text=f" {text}" if language == "en" else text,
        tokens=(),
        temperature=0.0,
        avg_logprob=0.0,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        language=language,
        seek_frames=0,
        words=tuple(
            Word(word, start_s + 0.4 * i, start_s + 0.4 * (i + 1), 1.0) for i, word in enumerate(words)
        ),
        speaker=speaker,
    )


TALK = Transcript(
    "transcribe",
    "en",
    9.0,
    (
        said("Ada", 0.0, "Good morning."),
        said("Ada", 1.0, "Is anybody there?"),
        said("B", 2.3, "Yes."),
        said("Ada", 4.0, "Fine."),
    ),
    shows_words=True,
)


def lines(transcript: Transcript, options: SubtitleOptions | None = None) -> list[str]:
    return [line for cue in cues(transcript, options or SubtitleOptions()) for line in cue.lines]


def test_subtitles_have_the_name_before_each_change() -> None:
    assert " ".join(lines(TALK)) == "Ada: Good morning. Is anybody there? B: Yes. Ada: Fine."
    starts = [line for line in lines(TALK) if ": " in line]
    assert [line.partition(":")[0] for line in starts] == ["Ada", "B", "Ada"]
    assert "Ada: Good morning." in render(TALK, "srt")[0]
    assert "\nB: Yes.\n" in render(TALK, "vtt")[0]


def test_two_speakers_never_share_a_cue() -> None:
    quick = Transcript("transcribe", "en", 3.0, (said("A", 0.0, "No."), said("B", 0.4, "Yes.")))
    assert [cue.lines for cue in cues(quick, SubtitleOptions())] == [("A: No.",), ("B: Yes.",)]


def test_a_long_name_keeps_the_bounds_of_a_line() -> None:
    name = "Augusta Ada King, Countess of Lovelace"
    found = lines(
        Transcript("transcribe", "en", 9.0, (said(name, 0.0, "Good morning."),)), SubtitleOptions(20, 4)
    )
    assert " ".join(found) == f"{name}: Good morning."
    assert max(map(len, found)) <= 20


def test_scripts_without_spaces() -> None:
    japanese = Transcript("transcribe", "ja", 9.0, (said("A", 0.0, "おはようございます。", "ja"),))
    assert lines(japanese) == ["A: おはようございます。"]


def test_a_text_has_a_line_for_each_turn() -> None:
    assert render(TALK, "text")[0] == "Ada: Good morning. Is anybody there?\nB: Yes.\nAda: Fine.\n"


def test_phrases_and_words_have_their_speaker() -> None:
    body = json.loads(render(TALK, "verbose_json")[0])
    assert [segment["speaker"] for segment in body["segments"]] == ["Ada", "Ada", "B", "Ada"]
    assert [word["speaker"] for word in body["words"]] == ["Ada"] * 5 + ["B", "Ada"]


def test_turns_without_text() -> None:
    turns = [Turn(0.123, 1.5, "Ada Lovelace"), Turn(1.0, 2.0, "B")]
    assert render_turns(turns, 2.25, "rttm")[0].splitlines() == [
        "SPEAKER audio 1 0.123 1.377 <NA> <NA> Ada_Lovelace <NA> <NA>",
        "SPEAKER audio 1 1.000 1.000 <NA> <NA> B <NA> <NA>",
    ]
    assert json.loads(render_turns(turns, 2.25, "json")[0]) == {
        "duration": 2.25,
        "speakers": ["Ada Lovelace", "B"],
        "segments": [
            {"start": 0.12, "end": 1.5, "speaker": "Ada Lovelace"},
            {"start": 1.0, "end": 2.0, "speaker": "B"},
        ],
        "usage": {"type": "duration", "seconds": 3},
    }
    with pytest.raises(InvalidRequest, match="json, rttm"):
        render_turns(turns, 2.25, "srt")
