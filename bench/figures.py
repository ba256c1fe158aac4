"""Arithmetic of the measurements: percentiles, arrival times, slopes, word errors, tables; pure."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several runs and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise the runs; not a number where there is none."""
        known = [value for value in values if not math.isnan(value)]
        return cls(statistics.median(known), min(known), max(known)) if known else cls(NAN, NAN, NAN)

    def shown(self, digits: int) -> str:
        """Return `median (low - high)`, or a dash."""
        if math.isnan(self.median):
            return "-"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} - {self.high:.{digits}f})"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the values do not exceed (nearest rank: a value that was there)."""
    if not values:
        return NAN
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def arrivals_s(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Return when `count` independent clients arrive, in seconds from now: a Poisson process."""
    chance = random.Random(seed)
    times: list[float] = []
    for _ in range(count):
        times.append((times[-1] if times else 0.0) + chance.expovariate(rate_per_s))
    return times


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the rise of the least-squares line per unit of x."""
    return statistics.linear_regression(xs, ys).slope if len(set(xs)) > 1 else NAN


def better_by(ours: float, theirs: float, *, higher_is_better: bool) -> float:
    """Return how many times better ours is: above 1 we are ahead."""
    top, bottom = (ours, theirs) if higher_is_better else (theirs, ours)
    return top / bottom if bottom else NAN


def words(text: str) -> list[str]:
    """Return the words without case and punctuation: what is compared."""
    return re.findall(r"\w+", text.lower())


def word_errors(said: str, heard: str) -> int:
    """Return how many words must be put in, left out or replaced to make one text of the other."""
    return sum(word_edits(said, heard))


def word_edits(said: str, heard: str) -> tuple[int, int, int]:
    """Return how many words were substituted, deleted and inserted: an alignment of the fewest."""
    others = words(heard)
    before = [(0, 0, inserted) for inserted in range(len(others) + 1)]
    for row, word in enumerate(words(said), start=1):
        line = [(0, row, 0)]
        for column, other in enumerate(others, start=1):
            above, left, (substituted, deleted, inserted) = before[column], line[-1], before[column - 1]
            line.append(
                min(
                    (substituted + (word != other), deleted, inserted),
                    (above[0], above[1] + 1, above[2]),
                    (left[0], left[1], left[2] + 1),
                    key=sum,
                )
            )
        before = line
    return before[-1]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
