"""Transcript -> cues that people can read: short lines, at pauses and clauses, in times that run forward.

Pure; knows nothing of SRT, WebVTT or HTTP. The defaults follow two public guidelines: Netflix's Timed
Text Style Guide (42 columns, two lines, one line where the text fits, 5/6 s to 7 s on screen) and the
BBC's Subtitle Guidelines (break at natural points, keep the words' own times). Where two lines are
needed, the lower one is rather the longer: it hides less of the picture.

1. Segments become units: words, or characters in scripts without spaces, with times from the segment's
   words, or from their share of its characters where it has none.
2. A pause of more than `pause_s` ends a block, and so does a segment. A block too short to be read
   joins its neighbour where both fit into one cue and hardly a pause lies between.
3. A block that fits is one cue; any other is cut where it costs least: few cues, good breaks, balance.
4. Starts stay where the speech starts; ends give way. A cue too brief to be read stays into the
   silence after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import Segment, Transcript
from whisper_server.services.rendering.line_breaks import INSIDE_WORD, pieces
from whisper_server.services.rendering.timed_text import Unit, units_of

# Smallest and largest value that a client may ask for.
LIMITS = {"max_line_chars": (10, 200), "max_lines": (1, 4), "max_cue_seconds": (1.0, 60.0)}

# Costs of cutting a block into cues; a break costs up to _BREAK times its strain.
_CUE, _BREAK, _SHORT, _BALANCE = 3.0, 6.0, 3.0, 4.0
# Costs of cutting a cue into lines: never one more than needed.
_LINE, _LINE_BREAK, _LAST_LINE = 100.0, 0.45, 0.8
_PAUSE_RELIEF = 0.4  # how much of a break's strain a pause takes away


@dataclass(frozen=True, slots=True)
class SubtitleOptions:
    """How much a cue may hold."""

    max_line_chars: int = 42  # columns: full-width characters count twice
    max_lines: int = 2
    max_cue_s: float = 7.0
    min_cue_s: float = 5 / 6  # where what follows leaves the time
    pause_s: float = 0.6  # between two words: more of it ends a cue
    join_gap_s: float = 0.3  # across more than this nothing is joined
    short_chars: int = 12  # columns: a word or two, which may join its neighbour


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on screen at once; file time in whole milliseconds, as both formats write it."""

    start_ms: int
    end_ms: int  # > start_ms, <= the next cue's start_ms
    lines: tuple[str, ...]


def check_options(max_line_chars: int, max_lines: int, max_cue_seconds: float) -> SubtitleOptions:
    """Return the options that a client asks for.

    Raises:
        InvalidRequest: one is out of bounds; `param` names it.
    """
    values = {"max_line_chars": max_line_chars, "max_lines": max_lines, "max_cue_seconds": max_cue_seconds}
    for name, value in values.items():
        low, high = LIMITS[name]
        if not low <= value <= high:  # NaN too
            raise InvalidRequest(f"{name} is {value}. Use a number from {low:g} to {high:g}.", param=name)
    return SubtitleOptions(max_line_chars, max_lines, max_cue_seconds)


def cues(transcript: Transcript, options: SubtitleOptions) -> list[Cue]:
    """Return the cues in file order; all text is in them, once."""
    groups: list[Sequence[Unit]] = []
    for speaker, segments in groupby(transcript.segments, key=lambda segment: segment.speaker):
        blocks = [block for segment in segments for block in _blocks(segment, options)]
        if speaker and blocks:
            blocks[0] = _named(speaker, blocks[0], options)
        groups += [group for block in _joined(blocks, options) for group in _groups(block, options)]
    return _timed(groups, transcript.duration_s, options)


def _named(speaker: str, block: list[Unit], options: SubtitleOptions) -> list[Unit]:
    """Put who speaks before the first words of a turn; a name that is long has lines of its own."""
    name = pieces(f"{speaker}:", options.max_line_chars)
    start_s = block[0].start_s
    first = replace(block[0], piece=replace(block[0].piece, has_space=True))
    return [
        *(Unit(replace(piece, strain=INSIDE_WORD), start_s, start_s) for piece in name),
        first,
        *block[1:],
    ]


def _blocks(segment: Segment, options: SubtitleOptions) -> Iterator[list[Unit]]:
    """Cut a segment at its pauses."""
    block: list[Unit] = []
    for unit in units_of(segment, options.max_line_chars):
        if block and unit.start_s - block[-1].end_s > options.pause_s:
            yield block
            block = []
        block.append(unit)
    if block:
        yield block


def _joined(blocks: Iterable[list[Unit]], options: SubtitleOptions) -> list[list[Unit]]:
    """Join blocks that are too short to be read alone with a neighbour close by."""
    joined: list[list[Unit]] = []
    for block in blocks:
        if joined and _may_join(joined[-1], block, options):
            joined[-1] = joined[-1] + block
        else:
            joined.append(block)
    return joined


def _may_join(left: Sequence[Unit], right: Sequence[Unit], options: SubtitleOptions) -> bool:
    gap_s = right[0].start_s - left[-1].end_s
    is_close = 0.0 <= gap_s <= options.join_gap_s
    return (
        is_close
        and (_is_short(left, options) or _is_short(right, options))
        and _fits([*left, *right], options)
    )


def _is_short(units: Sequence[Unit], options: SubtitleOptions) -> bool:
    duration_s = units[-1].end_s - units[0].start_s
    return duration_s < options.min_cue_s or _width(units) <= options.short_chars


def _fits(units: Sequence[Unit], options: SubtitleOptions) -> bool:
    return any(end == len(units) for end, _ in _cue_ends(units, 0, options))


def _cue_ends(units: Sequence[Unit], first: int, options: SubtitleOptions) -> Iterator[tuple[int, int]]:
    """Yield where a cue that starts at `first` may end, with the columns up to there.

    After one unit it always may, whatever its time.
    """
    lines, columns, total, line_first = 1, 0, 0, first
    for i in range(first, len(units)):
        piece = units[i].piece
        space = piece.has_space and i > first
        total += space + piece.width
        if i > line_first and columns + space + piece.width > options.max_line_chars:
            lines, columns, line_first = lines + 1, piece.width, i
        else:
            columns += space + piece.width
        is_long = units[i].end_s - units[first].start_s > options.max_cue_s
        if i > first and (lines > options.max_lines or is_long):
            return
        yield i + 1, total


def _groups(block: Sequence[Unit], options: SubtitleOptions) -> list[Sequence[Unit]]:
    """Cut a block into the units of its cues."""
    if _fits(block, options):
        return [block]
    capacity = options.max_line_chars * options.max_lines

    def costs(first: int) -> Iterator[tuple[int, float]]:
        for end, columns in _cue_ends(block, first, options):
            last = block[end - 1]
            duration_s = last.end_s - block[first].start_s
            fill = max(columns / capacity, duration_s / options.max_cue_s)
            cost = _CUE + _BALANCE * fill * fill
            if duration_s < options.min_cue_s or columns <= options.short_chars:
                cost += _SHORT
            if end < len(block):
                pause = (block[end].start_s - last.end_s) / options.pause_s
                cost += _BREAK * max(last.piece.strain - _PAUSE_RELIEF * max(pause, 0.0), 0.0)
            yield end, cost

    return _cut(block, costs)


def _lines(units: Sequence[Unit], options: SubtitleOptions) -> tuple[str, ...]:
    """Write a cue on as few lines as it needs, balanced, broken at punctuation where there is some."""
    line_options = SubtitleOptions(options.max_line_chars, max_lines=1, max_cue_s=math.inf)
    if _fits(units, line_options):
        return (_text(units),)

    def costs(first: int) -> Iterator[tuple[int, float]]:
        for end, columns in _cue_ends(units, first, line_options):
            fill = columns / options.max_line_chars
            is_last = end == len(units)
            strain = 0.0 if is_last else units[end - 1].piece.strain
            yield end, _LINE + _LINE_BREAK * strain + (_LAST_LINE if is_last else 1.0) * fill * fill

    return tuple(_text(line) for line in _cut(units, costs))


def _cut(units: Sequence[Unit], costs: Callable[[int], Iterable[tuple[int, float]]]) -> list[Sequence[Unit]]:
    """Cut units where it costs least; `costs(first)` gives the ends that a part may have, at least one."""
    best = [0.0] + [math.inf] * len(units)
    start_of = [0] * (len(units) + 1)
    for first in range(len(units)):
        for end, cost in costs(first):
            if best[first] + cost < best[end]:
                best[end], start_of[end] = best[first] + cost, first
    parts: list[Sequence[Unit]] = []
    end = len(units)
    while end > 0:
        parts.append(units[start_of[end] : end])
        end = start_of[end]
    return parts[::-1]


def _text(units: Sequence[Unit]) -> str:
    return "".join(" " * u.piece.has_space * (i > 0) + u.piece.text for i, u in enumerate(units))


def _width(units: Sequence[Unit]) -> int:
    return sum(unit.piece.width + unit.piece.has_space for unit in units) - units[0].piece.has_space


def _timed(groups: Sequence[Sequence[Unit]], duration_s: float, options: SubtitleOptions) -> list[Cue]:
    """Give cues times that neither overlap nor leave the file, whatever the times of the segments."""
    min_ms, max_ms = round(options.min_cue_s * 1000), round(options.max_cue_s * 1000)
    ends = [round(group[-1].end_s * 1000) for group in groups]
    spoken = [max(round(group[0].start_s * 1000), 0) for group in groups]
    starts: list[int] = []
    earliest = 0
    for spoken_ms, end_ms in zip(spoken, ends, strict=True):
        starts.append(max(spoken_ms, earliest))
        # The next cue may cut this one short, but not take all of its time.
        earliest = starts[-1] + min(max(end_ms - starts[-1], 1), min_ms)
    latest = limit = max(int(duration_s * 1000), len(groups))
    for i in reversed(range(len(groups))):
        # What was put off so far that hardly any time is left for it shares with the cue before it.
        halfway = max((spoken[i] + min(starts[i], latest)) // 2, latest - min_ms, i)
        latest = starts[i] = min(starts[i], halfway, latest - 1)
    found = []
    for group, start_ms, end_ms, next_ms in zip(groups, starts, ends, [*starts, limit][1:], strict=True):
        until_ms = min(max(end_ms, start_ms + min_ms), start_ms + max_ms, next_ms)
        found.append(Cue(start_ms, until_ms, _lines(group, options)))
    return found
