"""What a model leaves undone is found by its timestamps and the voice in the window, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding.test_segments import TOKENIZER, decoded
from whisper_server.core.types import VOICE_FRAME_S, Decoded, Placed, TokenTime, Window
from whisper_server.services.decoding import leftover

MEL = np.zeros((80, 3000), np.float32)


def window(duration_s: float = 20.0, *voiced: tuple[float, float]) -> Window:
    """Make a window with a voice in the stretches that are named; without any: everywhere."""
    n_frames = round(duration_s / VOICE_FRAME_S)
    voice = [0.0 if voiced else 0.9] * n_frames
    for start_s, end_s in voiced:
        for frame in range(round(start_s / VOICE_FRAME_S), min(n_frames, round(end_s / VOICE_FRAME_S))):
            voice[frame] = 0.9
    return Window(MEL, duration_s, (Placed(0.0, 100.0, duration_s),), tuple(voice))


def left(sound: Window, *parts: float | str, **changes: Any) -> list[tuple[float, float]]:
    result = replace(decoded(*parts), **changes)
    found = leftover.stretches(sound, result, TOKENIZER, 0.5)
    return [(round(s.start_s, 2), round(s.ends_s[-1], 2)) for s in found if not s.has_text]


SENTENCE = " one sentence that is long enough for the voice under it, and then a few more words of it"


def test_speech_behind_the_last_timestamp_is_left() -> None:
    assert left(window(), 0.0, SENTENCE, 8.0) == [(8.0, 20.0)]


def test_so_it_is_where_the_model_says_that_something_follows() -> None:
    assert left(window(), 0.0, SENTENCE, 8.0, 8.0) == [(8.0, 20.0)]


def test_a_beginning_and_a_middle_are_left() -> None:
    parts = (5.0, SENTENCE, 9.0, 12.0, SENTENCE, 20.0)
    assert left(window(), *parts) == [(0.0, 5.0), (9.0, 12.0)]


def test_a_phrase_that_is_not_closed_goes_to_the_end() -> None:
    assert left(window(), 0.0, SENTENCE * 3) == []


@pytest.mark.parametrize(
    ("voiced", "expected"),
    [
        (((0.0, 8.0),), []),  # silence or music follows
        (((0.0, 8.0), (12.0, 12.2)), []),  # less than a word
        (((0.0, 8.0), (12.0, 12.5)), [(8.0, 20.0)]),
    ],
)
def test_only_a_voice_counts(voiced: tuple[tuple[float, float], ...], expected: list[Any]) -> None:
    assert left(window(20.0, *voiced), 0.0, SENTENCE, 8.0) == expected


def test_what_is_shorter_than_a_second_is_not_left() -> None:
    assert left(window(), 0.98, SENTENCE, 19.1) == []
    assert left(window(), 1.0, SENTENCE, 19.0) == [(0.0, 1.0), (19.0, 20.0)]


def test_a_window_without_text_is_not_tried_again() -> None:
    assert left(window()) == []
    assert left(window(), 0.0, " ", 8.0) == []
    assert left(window(), 0.0, SENTENCE, 8.0, is_silence=True) == []


def sounding(*loud: tuple[float, float], duration_s: float = 20.0) -> Window:
    """Make a window in which voice was not looked for, of noise with louder stretches."""
    mel = np.random.default_rng(1).uniform(0.0, 0.05, MEL.shape).astype(np.float32)
    for start_s, end_s in loud:
        mel[:, round(start_s * 100) : round(end_s * 100)] += 0.8
    return replace(window(duration_s), mel=mel, voice=())


def test_without_voice_detection_what_stands_out_from_the_background_is_left() -> None:
    assert left(sounding((0.0, 8.0), (12.0, 14.0)), 0.0, SENTENCE, 8.0) == [(8.0, 20.0)]
    assert left(sounding((0.0, 8.0)), 0.0, SENTENCE, 8.0) == []
    assert left(sounding((0.0, 8.0), (12.0, 12.2)), 0.0, SENTENCE, 8.0) == []


def test_without_voice_detection_few_words_are_no_sign() -> None:
    assert left(sounding((0.0, 20.0)), 0.0, " three short words", 20.0) == []


def test_every_piece_is_shorter_than_its_window() -> None:
    for parts in [
        (0.0, SENTENCE, 0.02),
        (0.0, SENTENCE, 0.0),
        (19.98, SENTENCE, 20.0),
        (20.0, SENTENCE, 20.0),
        (0.0, " a", 20.0),
    ]:
        for stretch in leftover.stretches(window(), decoded(*parts), TOKENIZER, 0.5):
            assert all(0 <= start_s < end_s for start_s, end_s in stretch.pieces)
            assert all(end_s - start_s < 20.0 for start_s, end_s in stretch.pieces)


def test_a_phrase_with_far_too_few_words_for_its_voice_is_cut_in_a_pause() -> None:
    sound = window(20.0, (0.0, 8.0), (9.0, 16.0))
    (stretch,) = leftover.stretches(sound, decoded(0.0, " three short words", 16.0), TOKENIZER, 0.5)
    assert stretch.has_text
    (first, second) = stretch.pieces
    assert (first[0], second[1]) == (0.0, 16.0)
    assert first[1] == second[0]
    assert 8.0 <= first[1] <= 9.0
    assert leftover.stretches(sound, decoded(0.0, " short", 16.0), TOKENIZER, 0.5, is_part=True) == []


@pytest.mark.parametrize(
    ("text", "voiced_s"), [(SENTENCE, 16.0), (" word", 3.0), (" тридцать три коровы, свежая строка", 10.0)]
)
def test_slow_speech_and_long_pauses_are_not_too_few_words(text: str, voiced_s: float) -> None:
    assert leftover.stretches(window(20.0, (0.0, voiced_s)), decoded(0.0, text, 20.0), TOKENIZER, 0.5) == []


def cut_off(*parts: float | str) -> Decoded:
    result = decoded(*parts)
    n_text = len(TOKENIZER.text_tokens(result.tokens))
    return replace(result, token_times=(TokenTime(0, 0.0, 1.0, 1.0),) * n_text)


def test_a_phrase_that_ran_into_the_token_limit_is_left_to_the_next_attempt() -> None:
    whole = leftover.completed(cut_off(0.0, SENTENCE, 6.0, 6.0, " and" * 60), TOKENIZER)
    assert whole.tokens == decoded(0.0, SENTENCE, 6.0).tokens
    assert len(whole.token_times) == len(TOKENIZER.text_tokens(whole.tokens))
    assert left(window(), 0.0, SENTENCE, 6.0) == [(6.0, 20.0)]


def test_one_timestamp_that_closes_and_opens_stays() -> None:
    whole = leftover.completed(cut_off(0.0, SENTENCE, 6.0, " and" * 60), TOKENIZER)
    assert whole.tokens == decoded(0.0, SENTENCE, 6.0).tokens


@pytest.mark.parametrize(
    "result",
    [
        decoded(0.0, " and" * 70),  # the only phrase: all there is
        decoded(" and" * 70),
        decoded(0.0, SENTENCE, 6.0, 6.0, " short and not closed"),
        decoded(0.0, " and" * 60, 6.0),
        decoded(),
    ],
)
def test_other_texts_stay_as_they_are(result: Decoded) -> None:
    assert leftover.completed(result, TOKENIZER) == result


def test_an_improbable_text_is_no_more() -> None:
    assert leftover.is_more(window(), replace(decoded(), avg_logprob=-0.6))
    assert not leftover.is_more(window(), replace(decoded(), avg_logprob=-0.96))


@pytest.mark.parametrize(
    ("changes", "is_more"),
    [({}, True), ({"avg_logprob": -0.7}, False), ({"no_speech_prob": 0.4}, False)],
)
def test_without_voice_detection_the_model_must_be_sure_of_more(
    changes: dict[str, float], is_more: bool
) -> None:
    sure = replace(decoded(), avg_logprob=-0.4, no_speech_prob=0.1)
    assert leftover.is_more(sounding(), replace(sure, **changes)) is is_more
