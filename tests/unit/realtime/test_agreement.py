"""Words are shown when two decodes agree on them, once, and never taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.services.realtime.agreement import Agreement, Phrase


def _add(agreement: Agreement, text: str, end_s: float = 1.0) -> str:
    return agreement.add([Phrase(text, end_s)])


def test_one_decode_shows_nothing() -> None:
    assert _add(Agreement(), " And so") == ""


def test_the_common_beginning_is_shown() -> None:
    agreement = Agreement()
    _add(agreement, " And so my fell")
    assert _add(agreement, " And so my fellow Americans") == "And so my"
    assert _add(agreement, " And so my fellow Americans ask") == " fellow Americans"


def test_marks_and_case_do_not_hold_a_word_back() -> None:
    agreement = Agreement()
    _add(agreement, " ask not.")
    assert _add(agreement, " Ask not, what") == "Ask not,"


def test_a_word_that_is_put_in_later_repeats_nothing() -> None:
    agreement = Agreement()
    _add(agreement, " I like cats and dogs")
    assert _add(agreement, " I like cats and") == "I like cats and"
    _add(agreement, " I do like cats and birds too")
    assert _add(agreement, " I do like cats and birds too") == " birds too"


def test_characters_are_shown_one_by_one_where_words_have_no_spaces() -> None:
    agreement = Agreement()
    _add(agreement, "\u4eca\u65e5\u306f\u826f\u3044")
    assert _add(agreement, "\u4eca\u65e5\u306f\u5929\u6c17") == "\u4eca\u65e5\u306f"


def test_settled_phrases_are_left_out_of_the_next_decode() -> None:
    agreement = Agreement()
    both = [Phrase(" One two.", 2.0), Phrase(" Three four", 4.0)]
    agreement.add(both)
    assert agreement.add(both) == "One two. Three four"
    agreement.settle(both)
    assert agreement.settled_s == 2.0
    agreement.add([Phrase(" Three four five", 5.0)])
    assert agreement.add([Phrase(" Three four five six", 6.0)]) == " five"
    assert agreement.shown == "One two. Three four five"


def test_a_phrase_that_has_not_been_shown_is_not_settled() -> None:
    agreement = Agreement()
    phrases = [Phrase(" One two.", 2.0), Phrase(" Three four", 4.0)]
    agreement.add(phrases)
    agreement.settle(phrases)
    assert agreement.settled_s == 0.0


@pytest.mark.parametrize(
    ("transcript", "rest"), [("So it is.", " is."), ("So it", ""), ("It was.", ""), ("", "")]
)
def test_the_final_text_ends_what_was_shown(transcript: str, rest: str) -> None:
    agreement = Agreement()
    _add(agreement, " So it")
    _add(agreement, " So it")
    assert agreement.finish(transcript) == rest


@given(st.lists(st.sampled_from(["a", "b", "c", "d."]), max_size=12))
def test_decodes_that_only_grow_show_exactly_their_words(words: list[str]) -> None:
    agreement = Agreement()
    shown = ""
    for n_words in range(len(words) + 1):
        shown += _add(agreement, "".join(f" {word}" for word in words[:n_words]))
    assert shown == " ".join(words[:-1])
    assert shown + agreement.finish(" ".join(words)) == " ".join(words)


def test_what_ended_long_ago_needs_no_agreement() -> None:
    agreement = Agreement()
    assert _add(agreement, " One two.", 9.0) == ""
    phrases = [Phrase(" Won too.", 9.0), Phrase(" Three", 31.0)]
    assert agreement.add(phrases, sure_s=28.0) == "Won too."
    agreement.settle(phrases, sure_s=28.0)
    assert agreement.settled_s == 9.0
    assert agreement.add([Phrase(" Three", 31.0)]) == " Three"


@pytest.mark.parametrize("phrases", [[], [Phrase(" One two.", 9.0)]])
def test_silence_that_ended_long_ago_is_not_decoded_again(phrases: list[Phrase]) -> None:
    agreement = Agreement()
    agreement.add(phrases, sure_s=28.0)
    agreement.settle(phrases, sure_s=28.0)
    assert agreement.settled_s == 28.0
    assert agreement.shown == "".join(phrase.text.lstrip() for phrase in phrases)
