"""Cross-attention -> when each token was spoken: dynamic time warping, as openai/whisper's timing.py.

NumPy only. The steps and their order of ties are CTranslate2's (whisper.cc `align`, dtw.cc), so that both
engines give the same times for the same attention.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_server.core.types import SECONDS_PER_TIMESTAMP
from whisper_server.services.engines.base import Alignment

MEDIAN_WIDTH = 7  # encoder positions; openai/whisper's medfilt_width

Floats = NDArray[np.float32]


def alignment_heads(generation: Mapping[str, Any], layers: int, heads: int) -> dict[int, list[int]]:
    """Return layer -> heads; by default the upper half of the decoder, as in openai/whisper's model.py."""
    pairs = generation.get("alignment_heads") or itertools.product(range(layers // 2, layers), range(heads))
    watched: dict[int, list[int]] = {}
    for layer, head in pairs:
        watched.setdefault(layer, []).append(head)
    return watched


def alignment_within(scores: Floats, probabilities: Floats, n_positions: int, first: int) -> Alignment:
    """Align the text of a whole sequence, which stands between the token at `first` and the last one.

    `scores` [heads, tokens, >= n_positions] are those before the softmax, `probabilities` [tokens] those
    of the token after each.
    """
    last = len(probabilities) - 2  # before the end token
    matrix = token_matrix(scores, n_positions)
    return alignment_of(matrix[first : last + 1], probabilities[first:last])


def alignment_of(matrix: NDArray[np.float32], probabilities: NDArray[np.float32]) -> Alignment:
    """Turn how much each text token, and the end, attends to each position into times."""
    if not matrix.size:
        return Alignment((0.0,) * len(matrix), tuple(probabilities.tolist()))
    starts = first_positions(matrix)
    return Alignment(tuple((starts * SECONDS_PER_TIMESTAMP).tolist()), tuple(probabilities.tolist()))


def token_matrix(scores: Floats, n_positions: int) -> Floats:
    """Return how much each token attends to each position, all heads together: float32 [tokens, positions].

    `scores` [heads, tokens, >= n_positions] are those of the whole sequence before the softmax.
    """
    scores = scores[:, :, :n_positions]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    deviation = weights.std(axis=-2, keepdims=True)
    centred = weights - weights.mean(axis=-2, keepdims=True)
    weights = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    smooth: Floats = _median(weights).mean(axis=0, dtype=np.float32)
    return smooth


def _median(values: Floats) -> Floats:
    """Return the running median along the last axis, mirrored at the ends."""
    half = MEDIAN_WIDTH // 2
    if values.shape[-1] <= half:
        return values
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=-1)
    middle: Floats = np.partition(windows, half, axis=-1)[..., half]
    return middle


def first_positions(matrix: Floats) -> NDArray[np.int64]:
    """Warp tokens onto positions: return the first position of each token.

    `matrix` [tokens, positions]: the more, the better. Costs are filled in by anti-diagonals, whose cells
    do not depend on one another.
    """
    steps = _warp(-matrix.astype(np.float32))
    row, column = matrix.shape
    starts = np.zeros(row, dtype=np.int64)
    while row > 0 and column > 0:
        starts[row - 1] = column - 1
        step = steps[row, column]
        row -= step != 2
        column -= step != 1
    return starts


def _warp(cost: Floats) -> NDArray[np.int8]:
    """Return for each cell [tokens + 1, positions + 1] whence the best path comes.

    0: from the token and the position before, 1: from the token before, 2: from the position before.
    """
    n_tokens, n_positions = cost.shape
    total = np.full((n_tokens + 1, n_positions + 1), np.inf, dtype=np.float32)
    total[0, 0] = 0
    steps = np.full((n_tokens + 1, n_positions + 1), 2, dtype=np.int8)
    for diagonal in range(2, n_tokens + n_positions + 1):
        row = np.arange(max(1, diagonal - n_positions), min(n_tokens, diagonal - 1) + 1)
        column = diagonal - row
        both, above, left = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        is_both = (both < above) & (both < left)
        is_above = (above < both) & (above < left)
        step = np.where(is_both, 0, np.where(is_above, 1, 2)).astype(np.int8)
        steps[row, column] = step
        total[row, column] = cost[row - 1, column - 1] + np.choose(step, (both, above, left))
    return steps
