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
_SHAKEN_BYTES = 8  # for each number of the encoder's output: with noise, and while the rows are joined


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a model at the busiest moment."""

    workers: int  # calls at once
    max_batch: int  # windows in each
    beam_size: int
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

    Above temperature 0 the encoder's output is there twice, in 32 bits: as it is, and with noise.
    """
    rows = load.max_batch * load.beam_size
    attention = load.max_batch * shape.heads * PROMPT_POSITIONS * AUDIO_POSITIONS * load.item_bytes
    making = _PROJECTED_TENSORS * load.max_batch * AUDIO_POSITIONS * shape.d_model * load.item_bytes
    text = 2 * shape.decoder_layers * rows * TEXT_POSITIONS * shape.d_model * load.item_bytes
    shaken = load.max_batch * AUDIO_POSITIONS * shape.d_model * _SHAKEN_BYTES
    found = text + rows * shape.vocabulary * _SCORE_BYTES + shaken
    return _audio_keys(shape, load) + max(found, attention, making)


def _aligning(shape: ModelShape, load: Load) -> int:
    """The scores of the whole vocabulary for every token, and its attention to the audio."""
    attention = shape.heads * AUDIO_POSITIONS * load.item_bytes
    per_position = shape.vocabulary * _ALIGNED_SCORE_BYTES + attention
    return _audio_keys(shape, load) + load.aligned_positions * per_position


def _audio_keys(shape: ModelShape, load: Load) -> int:
    return load.max_batch * 2 * shape.decoder_layers * AUDIO_POSITIONS * shape.d_model * load.item_bytes
