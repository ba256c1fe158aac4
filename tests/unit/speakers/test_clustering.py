"""How many speakers there are, and that memory stays bounded."""

from __future__ import annotations

import numpy as np
import pytest

from whisper_server.services.speakers.clustering import MAX_POINTS, SpeakerCount, Voices

DIMENSIONS = 32
THRESHOLD = 0.7


def voices(*sizes: int, spread: float = 0.05, seed: int = 0) -> tuple[Voices, np.ndarray]:
    """So many stretches of each of several people, mixed; and what each is like."""
    rng = np.random.default_rng(seed)
    people = np.linalg.qr(rng.standard_normal((DIMENSIONS, len(sizes))))[0].T
    said = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    found = Voices()
    for person in said:
        vector = people[person] + rng.standard_normal(DIMENSIONS) * spread
        found.add((vector / np.linalg.norm(vector)).astype(np.float32), 1.0)
    return found, people


def matched(centres: np.ndarray, people: np.ndarray) -> list[int]:
    return sorted((centres @ people.T).argmax(axis=1).tolist())


@pytest.mark.parametrize("sizes", [(20,), (20, 20), (30, 8, 15, 40)])
def test_the_number_of_speakers_is_found(sizes: tuple[int, ...]) -> None:
    found, people = voices(*sizes)
    centres = found.speakers(THRESHOLD, 6.0, SpeakerCount())
    assert matched(centres, people) == list(range(len(sizes)))


def test_one_who_says_hardly_anything_is_none_unless_there_must_be_so_many() -> None:
    found, people = voices(40, 40, 1)
    assert matched(found.speakers(THRESHOLD, 6.0, SpeakerCount()), people) == [0, 1]
    assert matched(found.speakers(THRESHOLD, 6.0, SpeakerCount(3, 3)), people) == [0, 1, 2]


@pytest.mark.parametrize(("count", "n_found"), [((1, 2), 2), ((1, 1), 1), ((4, None), 4), ((6, 6), 6)])
def test_the_number_may_be_given(count: tuple[int, int | None], n_found: int) -> None:
    found, _ = voices(20, 20, 20)
    assert len(found.speakers(THRESHOLD, 6.0, SpeakerCount(*count))) == n_found


def test_there_are_no_more_speakers_than_stretches() -> None:
    found, _ = voices(1)
    assert len(found.speakers(THRESHOLD, 6.0, SpeakerCount(5, 5))) == 1
    assert len(Voices().speakers(THRESHOLD, 6.0, SpeakerCount(2, 2))) == 0


def test_what_is_kept_is_bounded_and_nobody_is_lost() -> None:
    found, people = voices(MAX_POINTS, MAX_POINTS // 2, 60)
    assert len(found._points) <= MAX_POINTS
    centres = found.speakers(THRESHOLD, 6.0, SpeakerCount())
    assert matched(centres, people) == [0, 1, 2]
    assert sum(found._weights) == pytest.approx(MAX_POINTS + MAX_POINTS // 2 + 60)
