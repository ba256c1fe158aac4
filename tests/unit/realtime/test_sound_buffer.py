"""Samples are found again by their position, whatever the pieces in which they came."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_server.services.realtime.sound_buffer import BLOCK_SAMPLES, SoundBuffer

_STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 3 * BLOCK_SAMPLES)),
    st.tuples(st.just("drop"), st.integers(0, 9 * BLOCK_SAMPLES)),
)


@given(st.lists(_STEPS, max_size=12), st.integers(0, 9 * BLOCK_SAMPLES), st.integers(0, 9 * BLOCK_SAMPLES))
@settings(max_examples=100, deadline=None)
def test_it_is_an_array_that_forgets_its_beginning(
    steps: list[tuple[str, int]], start: int, end: int
) -> None:
    buffer, everything, first = SoundBuffer(), np.zeros(0, np.float32), 0
    for kind, value in steps:
        if kind == "append":
            more = np.arange(len(everything), len(everything) + value, dtype=np.float32)
            everything = np.concatenate([everything, more])
            buffer.append(more)
        else:
            buffer.drop_before(value)
            first = max(first, min(value, len(everything)))
    assert (buffer.first, buffer.end) == (first, len(everything))
    np.testing.assert_array_equal(buffer.slice(start, end), everything[max(start, first) : max(end, first)])
    assert buffer.n_bytes <= 4 * (buffer.end - buffer.first + 2 * BLOCK_SAMPLES)


def test_single_samples_take_no_more_memory_than_a_long_piece() -> None:
    buffer = SoundBuffer()
    for value in range(1_000):
        buffer.append(np.full(1, value, np.float32))
    assert buffer.n_bytes == 4 * BLOCK_SAMPLES
    np.testing.assert_array_equal(buffer.slice(0, 1_000), np.arange(1_000))


def test_what_is_returned_is_a_copy() -> None:
    buffer = SoundBuffer()
    buffer.append(np.ones(10, np.float32))
    buffer.slice(0, 10)[:] = 0
    np.testing.assert_array_equal(buffer.slice(0, 10), 1)
