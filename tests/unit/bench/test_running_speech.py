"""Words that are heard are compared with published ones where both spell the same."""

from __future__ import annotations

import pytest

from bench.experiments.running_speech import errors_s, faults

TRUTH = [("She", 0.2, 0.4), ("had", 0.4, 0.6), ("ill", 1.0, 1.2), ("disposed", 1.2, 1.8)]


def test_words_that_are_the_same_are_compared() -> None:
    heard = [("she", 0.1, 0.5), ("had", 0.5, 0.6), ("ill-disposed.", 1.1, 1.7)]
    starts, ends = errors_s(TRUTH, heard)
    assert starts == pytest.approx([-0.1, 0.1, 0.1])
    assert ends == pytest.approx([0.1, 0.0, -0.1])


def test_what_is_misheard_and_what_is_not_heard_is_left_out() -> None:
    assert errors_s(TRUTH, []) == ([], [])
    starts, ends = errors_s(TRUTH, [("He", 0.0, 0.4), ("had", 0.5, 0.7)])
    assert (starts, ends) == (pytest.approx([0.1]), pytest.approx([0.0, 0.1]))


def test_faults_are_counted() -> None:
    words = [("a", -0.1, 0.2), ("b", 0.1, 0.1), ("c", 0.1, 0.3), ("d", 0.3, 1.2)]
    assert faults(words, 1.0) == (4, 1, 1, 2)
