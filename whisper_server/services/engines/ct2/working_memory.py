"""What the calls of a loaded model work with in memory at the busiest moment.

Counted from the sizes of what CTranslate2 and onnxruntime hold at once, and held against the resident memory
of a process in which every worker has the fullest batch with the longest texts
(bench/experiments/working_memory.py). Pure: nothing is loaded, and on a device that is not here the answer is
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from whisper_server.services.engines.model_shape import (
    AUDIO_POSITIONS,
    GAPS,
    KEPT_BYTES,
    PROMPT_POSITIONS,
    TEXT_POSITIONS,
    ModelShape,
)

# Tensors of [1500, d_model] that exist at once beside the attention scores: in an encoder layer (four of them
# are the inside of the feed-forward part, which also stands before and after its activation, and as 8-bit
# numbers), and while a decoder layer makes keys and values of the audio (both, in 32-bit sums, and split).
_ENCODER_TENSORS = 12
_PROJECTED_TENSORS = 6
_SCORE_BYTES = 12  # for each entry of the vocabulary and row: 32-bit sums, scores, and their logarithms
_ALIGNED_SCORE_BYTES = 9


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a model at the busiest moment."""

    workers: int  # calls at once
    max_batch: int  # windows in each
    beam_size: int
    best_of: int  # copies of a window's audio that are counted for at least; see `_searching`
    aligned_positions: int  # tokens that one call aligns
    item_bytes: int  # of an activation
    encodes_one_by_one: bool  # onnxruntime's encoder takes one window of the batch after the other


def working_bytes(shape: ModelShape, load: Load) -> int:
    """Return what all workers together take beside the weights, at most."""
    output_bytes = load.max_batch * AUDIO_POSITIONS * shape.d_model * load.item_bytes
    busiest = max(_encoding(shape, load), _searching(shape, load), _aligning(shape, load))
    return KEPT_BYTES + int(GAPS * load.workers * (output_bytes + busiest))


def _encoding(shape: ModelShape, load: Load) -> int:
    scores = shape.heads * AUDIO_POSITIONS**2
    tensors = _ENCODER_TENSORS * AUDIO_POSITIONS * shape.d_model
    windows = 1 if load.encodes_one_by_one else load.max_batch
    return windows * (scores + tensors) * load.item_bytes


def _searching(shape: ModelShape, load: Load) -> int:
    """Keys and values: of the audio, once for all beams of a window; of the text, for each beam.

    Counted are also the copies of the audio that candidates had when tokens were sampled. A search has none:
    the count is too high by them, until a search of the longest texts is measured without.
    """
    sampled = _audio_keys(shape, load, max(load.max_batch, load.best_of))
    rows = max(load.max_batch * load.beam_size, load.best_of)
    scores = load.max_batch * shape.heads * PROMPT_POSITIONS * AUDIO_POSITIONS * load.item_bytes
    making = _PROJECTED_TENSORS * load.max_batch * AUDIO_POSITIONS * shape.d_model * load.item_bytes
    text = 2 * shape.decoder_layers * rows * TEXT_POSITIONS * shape.d_model * load.item_bytes
    found = text + rows * shape.vocabulary * _SCORE_BYTES
    return max(sampled + found, _audio_keys(shape, load, load.max_batch) + max(scores, making))


def _aligning(shape: ModelShape, load: Load) -> int:
    """The scores of the whole vocabulary for every token, and its attention to the audio."""
    attention = shape.heads * AUDIO_POSITIONS * load.item_bytes
    per_position = shape.vocabulary * _ALIGNED_SCORE_BYTES + attention
    return _audio_keys(shape, load, load.max_batch) + load.aligned_positions * per_position


def _audio_keys(shape: ModelShape, load: Load, copies: int) -> int:
    return copies * 2 * shape.decoder_layers * AUDIO_POSITIONS * shape.d_model * load.item_bytes
