"""Text is shown where there is a voice or the model is sure; nothing is judged without voice detection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.decoding.test_leftover import window
from tests.unit.decoding.test_segments import TOKENIZER, decoded
from whisper_server.services.decoding import belief, segments

UNSURE = replace(decoded(0.0, " one", 2.0, 5.0, " two", 7.0), avg_logprob=-0.8)


def shown(result: Any, *voiced: tuple[float, float], threshold: float = 0.5) -> list[str]:
    return [s.text for s in segments.of(window(10.0, *voiced), result, TOKENIZER, threshold)]


def test_a_phrase_is_believed_where_it_has_a_voice_somewhere() -> None:
    assert shown(UNSURE, (1.0, 1.06)) == [" one"]
    assert shown(UNSURE, (1.0, 6.0)) == [" one", " two"]
    assert shown(UNSURE, (8.0, 10.0)) == []


def test_a_frame_that_sounds_like_a_voice_makes_no_long_text() -> None:
    credits_line = replace(decoded(0.0, " Thank you so much for watching, see you.", 5.0), avg_logprob=-0.9)
    assert shown(credits_line, (1.0, 1.1)) == []
    assert shown(credits_line, (1.0, 1.6)) == [" Thank you so much for watching, see you."]  # a sixth of it


def test_the_threshold_is_the_requests() -> None:
    assert shown(UNSURE, (0.0, 8.0), threshold=0.95) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [" one", " two"]),
        ({"no_speech_prob": 0.3}, []),
        ({"avg_logprob": -0.6}, []),
        ({"compression_ratio": 2.2}, []),
    ],
)
def test_without_a_voice_the_model_must_be_sure(changes: dict[str, float], expected: list[str]) -> None:
    assert shown(replace(UNSURE, **{"avg_logprob": -0.3, **changes}), (9.9, 10.0)) == expected


@pytest.mark.parametrize("text", [" rio rio rio", " no go no go no go"])
def test_a_short_loop_is_not_sure(text: str) -> None:
    # The fake vocabulary has a token per byte; a real one has one per word.
    by_word = {word: number for number, word in enumerate(dict.fromkeys(text.split()))}
    result = replace(UNSURE, tokens=tuple(by_word[word] for word in text.split()), avg_logprob=-0.1)
    assert not belief.is_sure(result)


def test_without_voice_detection_everything_is_believed() -> None:
    sound = replace(window(10.0), voice=())
    assert [s.text for s in segments.of(sound, UNSURE, TOKENIZER)] == [" one", " two"]
