"""Segment -> its text in units that stay on one line, each with the time in which it is spoken.

Pure. Times come from the segment's words where it has them, however those are cut; else every character
gets its share of the segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from whisper_server.core.types import Segment
from whisper_server.services.rendering.line_breaks import Piece, pieces


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of text in file time; units of one segment run forward."""

    piece: Piece
    start_s: float
    end_s: float


def units_of(segment: Segment, max_width: int) -> Iterator[Unit]:
    """Give each piece of the text its time; what is not spoken, as a dash, has that of its neighbour."""
    times = _spoken_times(segment)
    position, now_s = 0, min(segment.start_s, segment.end_s)
    for piece in pieces(segment.text, max_width, segment.language):
        mine = times[position : position + len(_spoken(piece.text))]
        position += len(mine)
        start_s, now_s = (mine[0][0], mine[-1][1]) if mine else (now_s, now_s)
        yield Unit(piece, start_s, now_s)


def _spoken(text: str) -> str:
    """Return letters and digits: the aligner gives punctuation the pause that follows it."""
    return "".join(char for char in text if char.isalnum())


def _spoken_times(segment: Segment) -> list[tuple[float, float]]:
    """Return start and end of each spoken character; starts and ends never run backwards.

    Words that do not spell the text are not used.
    """
    known = [(word.start_s, word.end_s, _spoken(word.text)) for word in segment.words]
    spoken = _spoken(segment.text)
    if "".join(text for *_, text in known) != spoken:
        known = [(segment.start_s, segment.end_s, spoken)]
    times: list[tuple[float, float]] = []
    now_s = -math.inf
    for start_s, end_s, text in known:
        first_s = max(start_s, now_s)
        step_s = max(end_s - first_s, 0.0) / max(len(text), 1)
        times += [(first_s + i * step_s, first_s + (i + 1) * step_s) for i in range(len(text))]
        now_s = times[-1][1] if times else now_s
    return times
