"""When an open turn is decoded, and what of it is shown, without sound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whisper_server.core.types import SAMPLE_RATE, Segment, Transcript, Word
from whisper_server.services.realtime.agreement import Phrase
from whisper_server.services.realtime.drafts import HOLD_S, LONG_S, Drafts, OpenTurn, Stretch, phrases_of


def turn(end_s: float, voiced_s: float | None = None, quiet_s: float | None = None) -> OpenTurn:
    return OpenTurn(
        "item",
        0,
        at(end_s),
        at(end_s if voiced_s is None else voiced_s),
        None if quiet_s is None else at(quiet_s),
        is_semantic=False,
        wants_sentence=False,
    )


def at(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def taken(stretch: Stretch | None) -> Stretch:
    assert stretch is not None
    return stretch


def test_words_are_shown_once_that_end_well_before_the_sound_does() -> None:
    drafts = Drafts()
    first = taken(drafts.next(turn(2.0)))
    assert drafts.heard(first, [Phrase(" So", 1.0), Phrase(" it", 2.0 - HOLD_S + 0.01)], 0.1) == "So"
    assert drafts.next(turn(2.1)) is None
    second = taken(drafts.next(turn(4.0)))
    assert drafts.heard(second, [Phrase(" So", 1.0), Phrase(" it", 1.6), Phrase(" goes", 3.9)], 0.1) == " it"


def test_one_at_a_time_and_one_that_failed_waits_for_more_sound() -> None:
    drafts = Drafts()
    first = taken(drafts.next(turn(2.0)))
    assert drafts.next(turn(5.0)) is None
    assert drafts.heard(first, None, 0.1) == ""
    assert drafts.next(turn(2.0)) is None
    assert drafts.next(turn(4.0)) is not None


def test_a_pause_has_the_whole_turn_decoded_at_once_and_only_once() -> None:
    drafts = Drafts()
    draft = taken(drafts.next(turn(2.0)))
    whole = taken(drafts.next(turn(2.5, 2.2, quiet_s=2.4)))
    assert (whole.start, whole.end, whole.is_whole) == (0, at(2.4), True)
    assert drafts.heard(draft, [Phrase(" Late", 0.5)], 0.1) == ""  # the whole one took its place
    assert drafts.next(turn(2.6, 2.2, quiet_s=2.4)) is None
    drafts.heard(whole, [Phrase(" So.", 1.0)], 0.3)
    assert drafts.ends_sentence
    assert drafts.next(turn(2.6, 2.2, quiet_s=2.4)) is None


def test_somebody_who_goes_on_is_heard_before_the_whole_turn_is_decoded() -> None:
    drafts = Drafts()
    assert taken(drafts.next(turn(2.5, 2.2, quiet_s=2.4))).is_whole
    assert not taken(drafts.next(turn(4.0))).is_whole


def test_a_busy_machine_decodes_no_turn_for_nothing_unless_its_end_hangs_on_it() -> None:
    drafts = Drafts()
    drafts.heard(taken(drafts.next(turn(2.0))), [], 5.0)
    paused = turn(2.5, 2.2, quiet_s=2.4)
    assert drafts.next(paused) is None
    assert taken(drafts.next(replace(paused, is_semantic=True))).is_whole


def test_a_turn_of_several_windows_is_not_decoded_at_each_pause() -> None:
    drafts = Drafts()
    long = turn(LONG_S + 2.0, LONG_S + 1.5, quiet_s=LONG_S + 1.7)
    assert not taken(drafts.next(long)).is_whole


def test_silence_is_not_decoded_again_and_again() -> None:
    drafts = Drafts()
    drafts.heard(taken(drafts.next(turn(3.0, 2.0))), [Phrase(" So", 1.0)], 0.1)
    assert drafts.next(turn(60.0, 2.0)) is None
    assert drafts.next(turn(62.0, 61.0)) is not None


def test_the_next_turn_knows_nothing_of_the_last() -> None:
    drafts = Drafts()
    late = taken(drafts.next(turn(2.0)))
    drafts.begin(at(2.0))
    assert drafts.heard(late, [Phrase(" Late", 0.5)], 0.1) == ""
    assert drafts.agreement.shown == ""


SEGMENT = Segment(0.5, 3.0, " Well, 你好 so be it", (), 0.0, -0.2, 1.0, 0.0, "en", 0)
TIMES = (("Well,", 0.5, 0.9), ("你好", 1.0, 1.4), ("be", 2.0, 2.2), ("it", 2.2, 3.0))
WORDS = tuple(Word(text, start_s, end_s, 1.0) for text, start_s, end_s in TIMES)


def test_the_words_of_a_draft_are_all_of_its_text() -> None:
    phrases = phrases_of(Transcript("transcribe", "en", 3.0, (replace(SEGMENT, words=WORDS),)), 10.0)
    assert phrases is not None
    assert [phrase.text for phrase in phrases] == [" Well,", " 你好", " so be", " it"]
    assert [phrase.end_s for phrase in phrases] == [10.9, 11.4, 12.2, 13.0]
    assert [phrase.is_cut for phrase in phrases] == [True, True, False, True]  # a comma, a pause, the end


@pytest.mark.parametrize("change", [{"avg_logprob": -1.1}, {"compression_ratio": 2.5}])
def test_a_draft_that_loops_or_is_improbable_is_not_believed(change: dict[str, float]) -> None:
    assert phrases_of(Transcript("transcribe", "en", 3.0, (replace(SEGMENT, **change),)), 0.0) is None
    assert phrases_of(Transcript("transcribe", "en", 3.0, (SEGMENT,)), 0.0) == [Phrase(SEGMENT.text, 3.0)]
