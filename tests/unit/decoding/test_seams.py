"""What was decoded again finds its place among the segments of its window, and nothing is said twice."""

from __future__ import annotations

from whisper_server.core.types import Segment
from whisper_server.services.decoding.seams import merged


def said(start_s: float, end_s: float, text: str) -> Segment:
    return Segment(start_s, end_s, text, (), 0.0, -0.2, 1.0, 0.0, "en", 0)


def texts(segments: list[Segment]) -> list[str]:
    return [segment.text for segment in segments]


FOUND = [said(5, 8, " The first sentence."), said(12, 15, " The second one.")]


def test_a_stretch_goes_before_between_or_behind() -> None:
    for start_s, end_s, place in [(0, 5, 0), (8, 12, 1), (15, 20, 2)]:
        more = [said(start_s, start_s + 1, " New words."), said(start_s + 1, end_s, " And others.")]
        expected = [*texts(FOUND[:place]), " New words.", " And others.", *texts(FOUND[place:])]
        assert texts(merged(FOUND, more, start_s, end_s, replaces=False)) == expected


def test_nothing_more_changes_nothing() -> None:
    assert merged(FOUND, [], 8, 12, replaces=False) == FOUND
    assert merged(FOUND, [], 5, 8, replaces=True) == FOUND


def test_the_last_words_of_a_phrase_are_not_said_again() -> None:
    more = [said(8, 9, " second one"), said(9, 10, " Something else.")]
    assert texts(merged([FOUND[1]], more, 15, 20, replaces=False)) == [" The second one.", " Something else."]


def test_a_phrase_that_was_placed_too_early_is_where_it_is_heard_again() -> None:
    more = [said(15, 17, " What came first."), said(17, 19, " the second, one")]
    expected = [" The first sentence.", " What came first.", " the second, one"]
    assert texts(merged(FOUND, more, 15, 20, replaces=False)) == expected


def test_the_first_words_of_the_next_phrase_are_not_said_before_it() -> None:
    more = [said(8, 10, " New words."), said(10, 12, " The second")]
    expected = [" The first sentence.", " New words.", " The second one."]
    assert texts(merged(FOUND, more, 8, 12, replaces=False)) == expected


def test_words_that_only_look_alike_stay() -> None:
    more = [said(15, 17, " The third one, at last.")]
    assert texts(merged(FOUND, more, 15, 20, replaces=False))[-1] == " The third one, at last."


def test_short_answers_may_come_again_later() -> None:
    more = [said(2, 3, " Are you sure?"), said(3, 4, " Yes.")]
    assert texts(merged([said(0, 1, " Yes.")], more, 1, 4, replaces=False)) == [
        " Yes.",
        " Are you sure?",
        " Yes.",
    ]


def test_without_spaces_phrases_are_compared_by_characters() -> None:
    more = [said(1, 2, "客観的実在の判断的知識"), said(2, 3, "次の文。")]
    assert texts(merged([said(0, 1, "客観的実在の判断的知識、")], more, 1, 3, replaces=False)) == [
        "客観的実在の判断的知識、",
        "次の文。",
    ]


def test_a_second_look_replaces_a_phrase_only_where_it_says_much_more() -> None:
    short, long = (
        [said(5, 7, " The first.")],
        [said(5, 6, " All of what was said before"), said(6, 8, " it.")],
    )
    assert merged(FOUND, short, 5, 8, replaces=True) == FOUND
    assert texts(merged(FOUND, long, 5, 8, replaces=True)) == [*texts(long), " The second one."]
