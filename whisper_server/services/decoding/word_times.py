"""When each word of a phrase was spoken: alignment, loudness and length of the words weighed together.

Pure; counts in mel frames (10 ms) of one window. Must not know of tokens, engines or files.

Cross-attention tells roughly where the model's attention moves on to the next word: never inside the
pause, every pause goes to some word, and each model is early or late in its own way (base by 0.1 s early,
tiny.en by as much late). The spectrogram tells exactly where sound ends and
begins, but not which gap lies between two words and which is the closure of a "t". So the boundaries
of a phrase are chosen together, by dynamic programming over candidates: the middles of pauses, the
valleys of loudness, and the aligned boundary itself. A boundary costs the more

- the louder it is there, and the shorter the pause (a pause is rarely inside a word),
- the more sound lies between it and the aligned one; silence between them costs nothing,
- the less the words on its sides last as long as their letters suggest.

The phrases of a window are placed twice: by how much the first choice moves most boundaries is how much
the alignment is off, and the second choice starts from the alignment without that. Then words are trimmed
to their sound, and noises beyond a pause are cut off. Where speech runs on without a gap, or noise covers
the gaps, all candidates are about equally loud and the alignment decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import FRAMES_PER_SECOND, Window

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Frames: TypeAlias = NDArray[np.int64]
    Costs: TypeAlias = NDArray[np.float32]

FLOOR_PERCENTILE = 10  # per mel band; what is there all the time is background
LOUD_FRAMES = 15  # the loudest ones show how loud speech is, even where only one short word is said
ENOUGH_FRAMES = 500  # to measure the background on: all 3,000 take four times as long
MIN_RANGE = 0.25  # of log-mel, 10 dB: less between quiet and loud is no pause, only unsteady noise
SOUND_LEVEL = 0.15  # of the way from background to loud speech; above is sound

VALLEY_FRAMES = 3  # a valley of loudness is the quietest frame among these many on each side
CANDIDATES = 32  # per boundary, the nearest ones: some words to each side
MAX_PAUSE_FRAMES = 15  # a pause this long is certainly none of the closures inside a word

# Round numbers on a plateau: three quarters or one and a half times any of them leave the median of the
# bundled samples alone and put at most 8 % of their words off by 0.1 s instead of none; the mean error of
# running speech (bench/experiments/running_speech.md) changes by at most a tenth.
LEVEL_COST = 2.0  # of a boundary in the middle of loud speech
PAUSE_GAIN = 4.0  # of a boundary in a pause of MAX_PAUSE_FRAMES
DRIFT_FRAMES = 20.0  # frames of sound between boundary and alignment that cost 1
LENGTH_FREE = 0.3  # logarithm: up to 1.35 times longer or shorter than its letters suggest costs nothing
LENGTH_SPREAD = 0.25  # logarithm: what costs 1/2 beyond that
LETTERS_PER_DIGIT = 4.0  # a digit is spoken as a word
LETTERS_PER_WORD = 1.5  # on top: short words last longer per letter

SHORT_PART = 0.5  # of the longest stretch of sound in a word; shorter ones beyond a pause are not of it

MAX_LAG_FRAMES = 30  # the alignment of no model is off by more; beyond that the first choice was wrong
FEW_BOUNDARIES = 4  # as many as these say half of what many do


@dataclass(frozen=True, slots=True)
class Phrase:
    """What is said between two timestamps, in frames of the window."""

    start: int
    end: int
    aligned: Sequence[int]  # [n - 1] ascending: where the alignment puts the boundaries between the words
    texts: Sequence[str]  # [n]


@dataclass(frozen=True, slots=True)
class Loudness:
    """How much each frame of a window stands out from its background."""

    level: NDArray[np.float32]  # [n_frames + 1], 0: background, 1: loud speech
    is_sound: NDArray[np.bool_]  # [n_frames]
    pause: Frames  # [n_frames + 1], length of the pause that each frame is in, at most MAX_PAUSE_FRAMES
    elapsed: Frames  # [n_frames + 1], frames of sound before each frame
    gaps: Frames  # ascending: middles of pauses, and the quietest frames between them
    seams: tuple[int, ...]  # where one stretch of the file ends and the next begins


def loudness(window: Window) -> Loudness:
    """Measure a window once for all of its phrases."""
    mel = window.mel[:, : window.n_frames]
    some = mel[:, :: max(1, mel.shape[1] // ENOUGH_FRAMES)]
    floor = np.percentile(some, FLOOR_PERCENTILE, axis=1, keepdims=True)
    stands_out = np.maximum(mel - floor, 0.0).mean(axis=0)
    loudest = min(LOUD_FRAMES, len(stands_out))
    low, high = np.percentile(stands_out, FLOOR_PERCENTILE), np.partition(stands_out, -loudest)[-loudest]
    # Counted from the loud end: steady noise is then all sound, not all silence.
    level = np.clip(1.0 - (high - stands_out) / max(high - low, MIN_RANGE), 0.0, 1.0)
    is_sound = level > SOUND_LEVEL
    pause, middles = _pauses(is_sound)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(level, VALLEY_FRAMES, constant_values=1.0), 2 * VALLEY_FRAMES + 1
    )
    before, after = around[:, :VALLEY_FRAMES].min(axis=1), around[:, VALLEY_FRAMES + 1 :].min(axis=1)
    is_valley = is_sound & (level < before) & (level <= after)
    return Loudness(
        level=np.append(level, np.float32(0.0)),
        is_sound=is_sound,
        pause=pause,
        elapsed=np.concatenate([[0], np.cumsum(is_sound)]),
        gaps=np.union1d(middles, np.flatnonzero(is_valley)),
        seams=tuple(frames(place.window_start_s) for place in window.places[1:]),
    )


def _pauses(is_sound: NDArray[np.bool_]) -> tuple[Frames, Frames]:
    """Return the length of the pause around each frame [n + 1], and the middle of each pause."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_sound, [True]])))
    first, last = edges[0::2], edges[1::2]
    lengths = np.zeros(len(is_sound) + 1, dtype=np.int64)
    lengths[:-1][~is_sound] = np.repeat(last - first, last - first)
    return np.minimum(lengths, MAX_PAUSE_FRAMES), (first + last) // 2


def frames(seconds: float) -> int:
    """Return the frame nearest to a time."""
    return round(seconds * FRAMES_PER_SECOND)


def place(loud: Loudness, phrases: Sequence[Phrase]) -> list[list[tuple[int, int]]]:
    """Return (start, end) of each word of each phrase of a window.

    Words run forward inside their phrase, do not overlap, and none lies across a seam.
    """
    first = [_boundaries(loud, phrase, 0) for phrase in phrases]
    lag = _lag(phrases, first)
    last = len(loud.is_sound)
    placed: list[list[tuple[int, int]]] = []
    for phrase, bounds in zip(phrases, first, strict=True):
        inner = _boundaries(loud, phrase, lag) if lag else bounds
        edges = [min(phrase.start, last), *inner, min(phrase.end, last)]
        placed.append([_trimmed(loud, *edge) for edge in pairwise(edges)] if phrase.texts else [])
    return placed


def _lag(phrases: Sequence[Phrase], chosen: Sequence[Sequence[int]]) -> int:
    """Return by how many frames the alignment is early, from where most boundaries were moved."""
    moved = [
        there - aligned
        for phrase, bounds in zip(phrases, chosen, strict=True)
        for aligned, there in zip(phrase.aligned, bounds, strict=True)
    ]
    if not moved:
        return 0
    trust = len(moved) / (len(moved) + FEW_BOUNDARIES)
    return round(trust * float(np.clip(np.median(moved), -MAX_LAG_FRAMES, MAX_LAG_FRAMES)))


def _boundaries(loud: Loudness, phrase: Phrase, lag: int) -> list[int]:
    """Choose all boundaries of a phrase together: the cheapest path through their candidates."""
    if not phrase.aligned:
        return []
    start, end = (min(edge, len(loud.is_sound)) for edge in (phrase.start, phrase.end))
    prior = np.clip(np.asarray(phrase.aligned, dtype=np.int64) + lag, start, end)
    places = _candidates(loud, start, end, prior)
    drift = np.abs(loud.elapsed[places] - loud.elapsed[prior][:, None])
    cost = (
        LEVEL_COST * loud.level[places]
        - PAUSE_GAIN / MAX_PAUSE_FRAMES * loud.pause[places]
        + drift / DRIFT_FRAMES
    )
    # From the phrase's start over [n - 1, k] candidates to its end; the ends are places without a choice.
    ends = np.full((1, places.shape[1]), start), np.full((1, places.shape[1]), end)
    length_cost = _length_costs(loud.elapsed, np.concatenate([ends[0], places, ends[1]]), phrase.texts)
    best = length_cost[0, 0] + cost[0]
    came_from: list[NDArray[np.intp]] = []
    for step, here in zip(length_cost[1:-1], cost[1:], strict=True):
        total = best[:, None] + step
        came_from.append(total.argmin(axis=0))
        best = total.min(axis=0) + here
    choice = int((best + length_cost[-1, :, 0]).argmin())
    path = [choice]
    for row in reversed(came_from):
        choice = int(row[choice])
        path.append(choice)
    return [int(row[column]) for row, column in zip(places, reversed(path), strict=True)]


def _candidates(loud: Loudness, start: int, end: int, prior: Frames) -> Frames:
    """Return [n - 1, k] ascending: the gaps with the least sound between them and the alignment, and itself.

    With the alignment among them there is always a path that runs forward.
    """
    gaps = loud.gaps[np.searchsorted(loud.gaps, start, "right") : np.searchsorted(loud.gaps, end)]
    distance = np.abs(loud.elapsed[gaps] - loud.elapsed[prior][:, None])
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :CANDIDATES]
    return np.sort(np.concatenate([gaps[nearest], prior[:, None]], axis=1), axis=1)


def _length_costs(elapsed: Frames, places: Frames, texts: Sequence[str]) -> Costs:
    """Return [n, k, k]: what word i costs from place [i, a] to place [i + 1, b], by its frames of sound."""
    letters = np.array([_letters(text) for text in texts])
    n_sound = int(elapsed[places[-1, 0]] - elapsed[places[0, 0]])
    log_length = np.log1p(np.arange(n_sound + 1, dtype=np.float32))
    expected = np.log1p(letters / letters.sum() * n_sound).astype(np.float32)
    sound = elapsed[places[1:, None, :]] - elapsed[places[:-1, :, None]]
    off = np.abs(log_length[np.maximum(sound, 0)] - expected[:, None, None])
    cost: Costs = 0.5 * (np.maximum(off - LENGTH_FREE, 0.0) / LENGTH_SPREAD) ** 2
    cost[places[1:, None, :] < places[:-1, :, None]] = np.inf
    return cost


def _letters(text: str) -> float:
    """Return how long a word takes to say, in letters."""
    spoken = sum(LETTERS_PER_DIGIT if c.isdigit() else 1.0 for c in text if c.isalnum())
    return spoken + LETTERS_PER_WORD


def _trimmed(loud: Loudness, start: int, end: int) -> tuple[int, int]:
    """Cut the silence off both ends, and what lies beyond a seam; a word without sound stays as it is.

    What is short and lies beyond a pause is a noise, or the next phrase; several long parts are a number.
    """
    for seam in loud.seams:
        if start < seam < end:
            left, right = loud.elapsed[seam] - loud.elapsed[start], loud.elapsed[end] - loud.elapsed[seam]
            start, end = (start, seam) if left >= right else (seam, end)
    sound = start + np.flatnonzero(loud.is_sound[start:end])
    if not len(sound):
        return start, end
    parts = np.split(sound, np.flatnonzero(np.diff(sound) > MAX_PAUSE_FRAMES) + 1)
    longest = max(map(len, parts))
    spoken = [part for part in parts if len(part) >= SHORT_PART * longest]
    return int(spoken[0][0]), int(spoken[-1][-1]) + 1
