"""Each word goes to who speaks meanwhile; nothing of the text is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from whisper_server.core.types import Segment, TokenScore, Turn, Word
from whisper_server.services.speakers.words import NOBODY, Speaking, with_speakers

TIMESTAMP = 50_364


def segment(text: str, start_s: float = 0.0, word_s: float = 1.0) -> Segment:
    """A phrase of which every word takes a second, and every word is a token, with timestamps around."""
    words = text.split()
    return Segment(
        start_s=start_s,
        end_s=start_s + word_s * len(words),
        text=f" {text}",
        tokens=(TIMESTAMP, *range(len(words)), TIMESTAMP + 50),
        temperature=0.0,
        avg_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        language="en",
        seek_frames=0,
        words=tuple(
            Word(word, start_s + i * word_s, start_s + (i + 1) * word_s, 0.9) for i, word in enumerate(words)
        ),
        scores=tuple(TokenScore(f" {word}", f" {word}".encode(), -0.1) for word in words),
    )


TURNS = [Turn(0.0, 2.1, "A"), Turn(2.1, 4.0, "B"), Turn(6.0, 8.0, "A")]


def told(segments: list[Segment]) -> list[tuple[str, str]]:
    return [(each.speaker, each.text) for each in segments]


def test_a_phrase_is_cut_where_the_speaker_changes() -> None:
    whole = segment("Are you there? Yes.")
    parts = with_speakers([whole], TURNS)
    assert told(parts) == [("A", " Are you"), ("B", " there? Yes.")]
    assert [(part.start_s, part.end_s) for part in parts] == [(0.0, 2.0), (2.0, 4.0)]
    assert [part.tokens for part in parts] == [(TIMESTAMP, 0, 1), (2, 3, TIMESTAMP + 50)]
    assert [len(part.scores) for part in parts] == [2, 2]
    assert sum((part.words for part in parts), ()) == whole.words


def test_a_phrase_of_one_speaker_stays_as_it_is() -> None:
    [part] = with_speakers([segment("one two", 2.0)], TURNS)
    assert (part.speaker, part.text, part.tokens) == ("B", " one two", segment("one two").tokens)


def test_punctuation_goes_with_the_word_before() -> None:
    parts = with_speakers([segment("one two … three")], TURNS)
    assert told(parts) == [("A", " one two …"), ("B", " three")]


def test_words_between_turns_are_of_the_nearest() -> None:
    parts = with_speakers([segment("a b c d", 4.0, 0.5)], TURNS)
    assert told(parts) == [("B", " a b"), ("A", " c d")]


def test_without_turns_there_is_one_speaker() -> None:
    assert told(with_speakers([segment("one two")], [])) == [(NOBODY, " one two")]


def test_who_speaks_longest_meanwhile_has_the_word() -> None:
    turns = [Turn(0.0, 9.0, "A"), Turn(0.2, 0.9, "B")]
    assert told(with_speakers([segment("one two")], turns)) == [("A", " one two")]


def test_a_phrase_without_times_of_words_goes_to_one() -> None:
    without = replace(segment("one two three four"), words=(), scores=())
    assert told(with_speakers([without], TURNS)) == [("A", " one two three four")]


@pytest.mark.parametrize("text", ["今日は 雨です", "a a a a", "é ü … ß"])
def test_text_and_tokens_are_what_they_were(text: str) -> None:
    whole = segment(text, 1.0)
    parts = with_speakers([whole], TURNS)
    assert "".join(part.text for part in parts) == whole.text
    assert sum((part.tokens for part in parts), ()) == whole.tokens
    assert sum((part.scores for part in parts), ()) == whole.scores
    assert all(left.end_s <= right.end_s for left, right in pairwise(parts))


def test_the_nearest_turn_is_the_one_that_ends_last() -> None:
    turns = [Turn(0.0, 4.0, "A"), Turn(1.0, 2.0, "B"), Turn(9.0, 9.5, "C")]
    assert told(with_speakers([segment("one", 5.0)], turns)) == [("A", " one")]


def test_many_turns_are_looked_at_once() -> None:
    """A word looks at the turns around it, not at those of the whole file."""
    turns = [Turn(float(i), i + 1.0, "AB"[i % 2]) for i in range(5_000)]
    looked = sum(len(list(Speaking(turns)._around(i + 1, float(i)))) for i in range(0, 5_000, 500))
    assert looked <= 3 * 10
