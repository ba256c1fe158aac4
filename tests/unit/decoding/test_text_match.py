"""Which words of a text were heard, and where the text goes on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_server.services.decoding.text_match import match, units_of

TEXT = units_of("It was the best of times, it was the worst of times, it was the age of wisdom")


def test_units_are_words_and_characters_of_scripts_without_spaces() -> None:
    assert units_of("Don't stop: it's 3 o\u2019clock, na\u00efve!") == [
        "dont",
        "stop",
        "its",
        "3",
        "oclock",
        "na\u00efve",
    ]
    assert units_of("\u4f60\u597d\uff0cworld\u3002") == ["\u4f60", "\u597d", "world"]
    assert units_of("\u0928\u092e\u0938\u094d\u0924\u0947 ...") == ["\u0928\u092e\u0938\u0924"]
    assert units_of(" -- ") == []


def test_what_is_heard_as_it_is_written_takes_as_much_of_the_text() -> None:
    found = match(TEXT[:6], TEXT, is_end=False)
    assert found.taken == [0, 1, 2, 3, 4, 5, 6]
    assert found.same == set(range(6))
    assert not any(found.left_out)


def test_misheard_left_out_and_invented_words() -> None:
    found = match(units_of("it was the bestow times uh it was worst of times"), TEXT, is_end=False)
    assert found.taken[-1] == 12
    assert found.taken[5] == found.taken[6] == 6  # nobody wrote "uh"


def test_what_follows_tells_what_the_end_of_a_window_left_out() -> None:
    heard, then = units_of("it was the best of times it was"), units_of("times it was the age of wisdom")
    found = match([*heard, *then], TEXT, is_end=True)
    assert found.taken[len(heard)] >= 8
    assert sum(found.left_out) == 3  # "the worst of"
    assert found.taken[-1] == len(TEXT)


def test_a_passage_that_nobody_says_is_passed_over() -> None:
    preface = units_of(" ".join(f"preface{number} of the book" for number in range(40)))
    found = match(TEXT, [*preface, *TEXT], is_end=True)
    assert found.passages == [(0, len(preface))]
    assert found.same == set(range(len(preface), len(preface) + len(TEXT)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=12),
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    st.booleans(),
)
def test_the_text_is_taken_in_order_and_no_word_twice(
    heard: list[str], text: list[str], is_end: bool
) -> None:
    found = match(heard, text, is_end=is_end)
    assert len(found.taken) == len(found.left_out) == len(heard) + 1
    assert found.taken == sorted(found.taken)
    assert found.taken[0] >= 0
    assert found.taken[-1] <= len(text)
    assert found.same <= set(range(found.taken[-1]))
    assert len(found.same) <= len(heard)
