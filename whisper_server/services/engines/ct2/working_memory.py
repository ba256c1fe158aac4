"""What a loaded model takes in memory: its weights, and what its calls work with at the busiest moment.

Counted from the sizes of what CTranslate2 and onnxruntime hold at once, and held against the resident memory
of a process in which every worker has the fullest batch with the longest texts
(bench/experiments/working_memory.py). Pure: nothing is loaded, and on a device that is not here the answer is
the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whisper_server.services.engines.model_shape import ModelShape
from whisper_server.services.onnx.writer import FILE_NAME as ENCODER_FILE

AUDIO_POSITIONS = 1500  # of the encoder's output, for one window
TEXT_POSITIONS = 448  # of the decoder: prompt and text
PROMPT_POSITIONS = 224
KEPT_BYTES = 100_000_000  # whatever the size: tokenizer, vocabulary, sessions, buffers that stay
GAPS = 1.35  # allocators need more than what they give: there are gaps, and what was freed is kept

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
    best_of: int  # candidates of a window where tokens are sampled
    aligned_positions: int  # tokens that one call aligns
    item_bytes: int  # of an activation
    encodes_one_by_one: bool  # onnxruntime's encoder takes one window of the batch after the other


def weight_bytes(folder: Path) -> int:
    """Return what converted weights take in memory, by their files.

    Those of onnxruntime's encoder are there twice: for a lone call, and for calls that share the cores.
    """
    files = {folder / "model.bin": 1, folder / f"{ENCODER_FILE}.data": 2}
    return sum(times * path.stat().st_size for path, times in files.items() if path.is_file())


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

    Candidates that are sampled have a copy of the audio's each, of no more windows than make a full batch of
    copies, but of one at least (`ct2_engine.generate`).
    """
    sampled = _audio_keys(shape, load, max(load.max_batch, load.best_of))
    rows = max(load.max_batch * load.beam_size, load.best_of)
    scores = load.max_batch * shape.heads * PROMPT_POSITIONS * AUDIO_POSITIONS * load.item_bytes
    making = _PROJECTED_TENSORS * load.max_batch * AUDIO_POSITIONS * shape.d_model * load.item_bytes
    text = 2 * shape.decoder_layers * rows * TEXT_POSITIONS * shape.d_model * load.item_bytes
    found = text + rows * shape.vocabulary * _SCORE_BYTES
    return max(sampled + found, _audio_keys(shape, load, load.max_batch) + max(scores, making))


def _aligning(shape: ModelShape, load: Load) -> int:
    """The scores of the whole vocabulary for every token, and where each of them looks."""
    looks = shape.heads * AUDIO_POSITIONS * load.item_bytes
    per_position = shape.vocabulary * _ALIGNED_SCORE_BYTES + looks
    return _audio_keys(shape, load, load.max_batch) + load.aligned_positions * per_position


def _audio_keys(shape: ModelShape, load: Load, copies: int) -> int:
    return copies * 2 * shape.decoder_layers * AUDIO_POSITIONS * shape.d_model * load.item_bytes
