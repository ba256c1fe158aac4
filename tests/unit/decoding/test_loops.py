"""Loops are cut to one round; what people repeat, and the times of what is left, stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.services.decoding import loops
from whisper_server.services.engines.fake import build_tokenizer

TOKENIZER = build_tokenizer()
SENTENCE = " I don't know what to do."


def tokens_of(*parts: float | str) -> tuple[int, ...]:
    """Numbers are timestamps, strings are text."""
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += TOKENIZER.encode(part)
        else:
            tokens.append(TOKENIZER.first_timestamp + round(part / 0.02))
    return tuple(tokens)


def cut(*parts: float | str) -> tuple[int, ...]:
    return loops.cut(tokens_of(*parts), TOKENIZER)


def test_a_loop_inside_a_phrase_is_one_round() -> None:
    assert cut(0.0, " He said no," + " and on we go," * 20 + " thanks.", 9.0) == tokens_of(
        0.0, " He said no, and on we go, thanks.", 9.0
    )


def test_phrases_that_come_again_lose_their_times() -> None:
    looped = [part for i in range(6) for part in (2.0 * i, SENTENCE, 2.0 * i + 1.5)]
    assert cut(*looped) == tokens_of(0.0, SENTENCE, 1.5)
    # What comes after the loop keeps its own times.
    assert cut(*looped, 20.0, " At last.", 21.0) == tokens_of(0.0, SENTENCE, 1.5, 20.0, " At last.", 21.0)


def test_phrases_that_share_a_timestamp() -> None:
    looped = [part for i in range(6) for part in (SENTENCE, 2.0 * i + 1.5)]
    assert cut(0.0, *looped, " At last.", 21.0) == tokens_of(0.0, SENTENCE, 1.5, " At last.", 21.0)


def test_what_breaks_off_at_the_end_goes_too() -> None:
    looped = [part for i in range(5) for part in (2.0 * i, SENTENCE, 2.0 * i + 1.5)]
    assert cut(*looped, 10.0, " I don't kno") == tokens_of(0.0, SENTENCE, 1.5)
    assert cut(0.0, SENTENCE * 5 + " I don't") == tokens_of(0.0, SENTENCE)


def test_case_and_punctuation_make_no_difference() -> None:
    text = " Oh yes, oh Yes! Oh, yes. Oh yes" + " oh yes," * 8
    assert cut(0.0, text, 5.0) == tokens_of(0.0, " Oh yes,", 5.0)


def test_characters_are_whole_in_languages_without_spaces() -> None:
    assert cut(0.0, "本日は" + "晴天なり" * 10 + "晴天", 5.0) == tokens_of(0.0, "本日は晴天なり", 5.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ¶¶" + "¶" * 100, " ¶"),
        (" She laughs: ha" + "ha" * 60 + ", again.", " She laughs: ha, again."),
        (" The door goes be" + "ep" * 40, " The door goes beep"),
    ],
)
def test_a_loop_inside_a_word_is_one_round_too(text: str, expected: str) -> None:
    assert cut(0.0, text, 5.0) == tokens_of(0.0, expected, 5.0)


@pytest.mark.parametrize(
    "text",
    [
        " no no no",
        " Donaudampfschifffahrtsgesellschaftskapitän",
        " Aaaaaaaaah!",
        " No, no, no, no, no, no!",
        " one two three four five six seven eight nine ten eleven twelve",
        " ha ha ha ha ha ha ha ha",
        " We will, we will rock you. We will, we will rock you." + " Sing it!" * 3,
        SENTENCE * 3,
        " 1, 2, 3, 1, 2, 3, 1, 2, 3",
        "",
    ],
)
def test_what_people_repeat_stays(text: str) -> None:
    assert cut(0.0, text, 5.0) == tokens_of(0.0, text, 5.0)


@given(
    st.lists(
        st.one_of(
            st.integers(0, 1500).map(lambda step: step * 0.02),
            st.sampled_from([" la", " so", " é", " what now", "字", SENTENCE * 6, " la" * 30]),
        ),
        max_size=40,
    ),
)
def test_whatever_was_written_words_are_whole_and_times_in_order(parts: list[float | str]) -> None:
    times = iter(sorted(part for part in parts if not isinstance(part, str)))
    parts = [part if isinstance(part, str) else next(times) for part in parts]
    before = tokens_of(*parts)
    after = loops.cut(before, TOKENIZER)
    assert set(after) <= set(before)
    assert "\N{REPLACEMENT CHARACTER}" not in TOKENIZER.text(after)
    kept = [token for token in after if TOKENIZER.is_timestamp(token)]
    assert kept == sorted(kept)
    assert bool(TOKENIZER.text(after)) == bool(TOKENIZER.text(before))
