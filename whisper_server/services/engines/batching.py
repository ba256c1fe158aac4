"""Which rows of a batch go into one call of a library; pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence


def rows_by(keys: Iterable[Hashable]) -> list[list[int]]:
    """Group row numbers by equal keys, in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def rows_within(limit: int, rows: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut `rows` into parts whose size, rows times the longest of them, is within the limit.

    `lengths[row]` belongs to row number `row`. A row that is longer than the limit is a part of its own.
    """
    part: list[int] = []
    longest = 0
    for row in rows:
        longest = max(longest, lengths[row])
        if part and (len(part) + 1) * longest > limit:
            yield part
            part, longest = [], lengths[row]
        part.append(row)
    if part:
        yield part
