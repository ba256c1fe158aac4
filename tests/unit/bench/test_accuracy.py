"""The arithmetic of `python -m bench.accuracy`: index and corrections, errors by kind, times, tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from bench.accuracy import recordings, scores
from bench.accuracy.journal import Journal
from bench.accuracy.listeners import Heard
from bench.accuracy.recordings import CORRECTIONS, Recording
from bench.accuracy.report import Result, heard_by_all, report
from bench.accuracy.scores import Edits

SAID = Recording(
    "a.wav", "en", 3.0, "She had your suit", "speech", ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (1, 2))
)
QUIET = Recording("b.wav", None, 2.0, "", "noise")


@pytest.fixture
def libraries() -> None:
    """Skip where the normalisers are not installed (requirements-bench.txt)."""
    pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")


def entry(**fields: object) -> dict[str, object]:
    return {
        "file": "a.wav",
        "language": "en",
        "seconds": 3.0,
        "transcript": "one two",
        "what": "speech",
        **fields,
    }


def test_an_entry_is_mended() -> None:
    mended = recordings.recording(entry(), {"reason": "heard", "replace": [["two", "three"]]})
    assert mended.transcript == "one three"
    assert recordings.recording(entry(), {"reason": "another file's", "leave_out": True}).transcript is None
    timed = recordings.recording(entry(), {"reason": "published", "word_times_s": [[0, 1], [1, 2.5]]})
    assert (timed.transcript, timed.word_times_s) == ("one two", ((0, 1), (1, 2.5)))


def test_a_transcript_may_be_spelled_in_two_ways() -> None:
    mended = recordings.recording(entry(), {"reason": "numbers", "also": [["two", "2"]]})
    assert (mended.transcript, mended.also) == ("one two", "one 2")


@pytest.mark.usefixtures("libraries")
def test_the_nearer_spelling_counts() -> None:
    spelled = Recording("a.wav", "sv", 1.0, "ett två", "speech", also="1 2")
    assert Result(spelled, {"json": Heard("1, 2.")}).edits == Edits(2, 0, 0, 0)
    assert Result(spelled, {"json": Heard("Ett två.")}).edits == Edits(2, 0, 0, 0)
    assert Result(spelled, {"json": Heard("Ett tre")}).edits == Edits(2, 1, 0, 0)


def test_a_correction_of_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match="'four' is not in its transcript"):
        recordings.recording(entry(), {"reason": "heard", "replace": [["four", "five"]]})


def test_an_empty_transcript_is_silence_and_none_is_not_known() -> None:
    assert not recordings.recording(entry(transcript=""), {}).is_speech
    assert recordings.recording(entry(transcript=None), {}).is_speech
    assert recordings.recording(entry(language="en+de"), {}).languages == ("en", "de")


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("film: several speakers, noise", "film"),
        ("read book; opening", "read book"),
        ("two speakers", "two speakers"),
    ],
)
def test_kind(what: str, kind: str) -> None:
    assert recordings.kind_of(what) == kind


def test_every_correction_has_its_reason() -> None:
    known = {"reason", "leave_out", "transcript", "replace", "also", "language", "word_times_s"}
    for file, correction in json.loads(CORRECTIONS.read_text(encoding="utf-8")).items():
        assert correction.get("reason"), file
        assert correction.keys() <= known, file


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps([entry(), entry(file="b.wav")]))
    mended = tmp_path / "mended.json"
    mended.write_text(json.dumps({"b.wav": {"reason": "rough", "leave_out": True}}))
    assert [each.transcript for each in recordings.read(tmp_path, mended)] == ["one two", None]
    assert [each.transcript for each in recordings.read(tmp_path, None)] == ["one two", "one two"]


def test_choosing_files() -> None:
    found = [Recording(f"{letter}.wav", "en", 1.0, "", "speech") for letter in "abcdef"]
    assert [each.file for each in recordings.chosen(found, ["b.", "e*v"], None)] == ["b.wav", "e.wav"]
    assert [each.file for each in recordings.chosen(found, [], 3)] == ["a.wav", "c.wav", "e.wav"]
    assert recordings.chosen(found, [], 9) == found


def test_edits_add_up() -> None:
    found = scores.total([Edits(10, 1, 2, 3), Edits(10, 0, 1, 0), Edits()])
    assert (found, found.errors, found.percent) == (Edits(20, 1, 3, 3), 7, 35.0)
    assert math.isnan(Edits(0, 0, 0, 4).percent)


def test_nothing_said_or_nothing_heard_needs_no_alignment() -> None:
    assert scores.edits(["a", "b"], []) == Edits(2, 0, 2, 0)
    assert scores.edits([], ["a", "b"]) == Edits(0, 0, 0, 2)


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("said", "heard", "found"),
    [
        ("a b c", "a b c", (3, 0, 0, 0)),
        ("a b c d", "a x c", (4, 1, 1, 0)),
        ("a b", "a and b too", (2, 0, 0, 2)),
    ],
)
def test_edits_by_kind(said: str, heard: str, found: tuple[int, int, int, int]) -> None:
    assert scores.edits(said.split(), heard.split()) == Edits(*found)


@pytest.mark.usefixtures("libraries")
def test_units_are_normalised_words_or_characters() -> None:
    assert scores.units("Um, Mr. Brown didn't pay twenty dollars.", "en") == [
        "mister",
        "brown",
        "did",
        "not",
        "pay",
        "$20",
    ]
    assert scores.units("Enciende la luz del salón.", "es") == ["enciende", "la", "luz", "del", "salón"]
    assert scores.units("実在の、判断。", "ja") == list("実在の判断")
    assert scores.units("Hola, was?", "es+de") == ["hola", "was"]
    assert scores.units("Don\N{RIGHT SINGLE QUOTATION MARK}t", "en") == ["do", "not"]


@pytest.mark.usefixtures("libraries")
@pytest.mark.filterwarnings("ignore")  # zhconv reads its table with pkg_resources
def test_chinese_is_compared_in_simplified_characters() -> None:
    pytest.importorskip("zhconv")
    assert scores.units("這個", "zh") == scores.units("这个", "zh") == ["这", "个"]


@pytest.mark.usefixtures("libraries")
def test_time_errors_are_of_the_words_that_were_heard_right() -> None:
    heard = [("She", 0.3, 0.4), ("hat", 0.4, 0.6), ("your", 0.5, 0.9), ("suit.", 1.0, 2.25)]
    errors = scores.time_errors_s(SAID.transcript or "", SAID.word_times_s, heard, "en")
    assert [(round(start, 2), round(end, 2)) for start, end in errors] == [
        (0.1, 0.0),
        (-0.1, 0.1),
        (0.0, 0.25),
    ]
    with pytest.raises(ValueError, match="zip"):
        scores.time_errors_s("one word too many, is it", SAID.word_times_s, heard, "en")


def test_misplaced_words() -> None:
    assert scores.misplaced([("a", 0, 1), ("b", 1, 1), ("c", 1.5, 3.02)], 3.0) == 0
    assert scores.misplaced([("a", 1, 2), ("b", 0.5, 1)], 3.0) == 1  # begins before the one before it
    assert scores.misplaced([("a", 1, 0.9), ("b", 2, 3.5)], 3.0) == 2  # ends before it begins, after the file
    assert scores.misplaced([("a", 1, 9)], None) == 0


def test_a_result_compares_its_answers() -> None:
    first, other = Heard("one", "en"), Heard("two", "de")
    result = Result(SAID, {"json": first, "words": other, "again": first})
    assert (result.text, result.differs("words"), result.differs("again")) == ("one", True, False)
    assert Result(SAID, {"json": first}).differs("again") is None
    assert Result(SAID, {"words": other}).is_language_right is False
    assert Result(QUIET, {"words": other}).is_language_right is None
    either = Recording("c.wav", "en+de", 1.0, None, "code-switching")
    assert Result(either, {"words": other}).is_language_right is True


def test_only_recordings_that_all_have_heard_are_compared() -> None:
    one, both = Recording("a.wav", "en", 1.0, "a", "speech"), Recording("b.wav", "en", 1.0, "b", "speech")
    ours = [Result(one, {"json": Heard("a")}), Result(both, {"json": Heard("b")})]
    theirs = [Result(one, {}), Result(both, {"json": Heard(error="400")})]
    found = heard_by_all({"ours": ours, "theirs": theirs})
    assert {name: [r.recording.file for r in results] for name, results in found.items()} == {
        "ours": ["b.wav"],
        "theirs": ["b.wav"],
    }


@pytest.mark.usefixtures("libraries")
def test_the_tables() -> None:
    right = [
        Result(SAID, {"json": Heard("She had a suit", "en", wall_s=2.4)}),
        Result(QUIET, {"json": Heard()}),
    ]
    failed = [
        Result(SAID, {"json": Heard(error="400: what is this")}),
        Result(QUIET, {"json": Heard("Thank you", "en")}),
    ]
    text = report({"ours": right, "theirs": failed})
    assert "| ours | 4, 25.00 % | 1 | 0 | 0 | - | - | - | - | 0 of 1 (0) | 0 of 1 | - | - | 2 | 0 |" in text
    assert "| theirs | 4, 100.00 % | 0 | 4 | 0 | - | - | - | - | 1 of 1 (2) | - |" in text
    assert "| en | 1 | 4 | 25.0 % (1, 0, 0) | 100.0 % (0, 4, 0) |" in text
    assert "| speech | 1 | 4 | 25.0 % (1, 0, 0) | 100.0 % (0, 4, 0) |" in text
    assert "| b.wav | 0 | 2 |" in text
    assert "| a.wav | heard | 400: what is this |" in text


def test_the_journal_keeps_what_was_heard_but_for_errors(tmp_path: Path) -> None:
    recording = tmp_path / "a.wav"
    recording.write_bytes(b"1234")
    kept = Journal(tmp_path / "ours.jsonl", "key")
    heard = Heard("one", "en", [("one", 0.0, 1.0)], 0.5, 0.4)
    kept.add(recording, "json", heard)
    kept.add(recording, "words", Heard(error="500: busy"))
    assert kept.get(recording, "words") == Heard(error="500: busy")
    again = Journal(tmp_path / "ours.jsonl", "key")
    assert (again.get(recording, "json"), again.get(recording, "words")) == (heard, None)
    assert Journal(tmp_path / "ours.jsonl", "other code").get(recording, "json") is None
    recording.write_bytes(b"12345")
    assert again.get(recording, "json") is None
