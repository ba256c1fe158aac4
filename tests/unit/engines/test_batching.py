"""How the rows of a batch are shared out among calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.services.engines.batching import rows_by, rows_within


def test_equal_keys_go_together_in_order() -> None:
    assert rows_by("abcab") == [[0, 3], [1, 4], [2]]


@pytest.mark.parametrize(
    ("limit", "rows", "lengths", "parts"),
    [
        (0, [0, 1, 2], [1, 1, 1], [[0], [1], [2]]),  # a batch smaller than the candidates of one window
        (3, [0, 1, 2, 3], [1, 1, 1, 1], [[0, 1, 2], [3]]),
        (256, [0, 1, 2, 3], [100, 100, 60, 60], [[0, 1], [2, 3]]),
        (256, [0, 1], [229, 10], [[0], [1]]),  # what is short is filled up beside what is long
        (256, [0, 1], [300, 300], [[0], [1]]),
        (256, [3, 1], [0, 128, 0, 128], [[3, 1]]),
        (256, [], [], []),
    ],
)
def test_parts(limit: int, rows: list[int], lengths: list[int], parts: list[list[int]]) -> None:
    assert list(rows_within(limit, rows, lengths)) == parts


@given(st.integers(0, 300), st.lists(st.integers(1, 300), max_size=12))
def test_nothing_is_lost_and_no_part_is_too_large(limit: int, lengths: list[int]) -> None:
    parts = list(rows_within(limit, range(len(lengths)), lengths))
    assert [row for part in parts for row in part] == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[row] for row in part) <= limit
