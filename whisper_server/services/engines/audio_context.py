"""Which published checkpoints hear well without the rest of a window, and how they are known; pure.

Whisper was trained on windows of 30 s, filled up with silence. Some checkpoints write the same over less
silence, others lose themselves in loops. That cannot be told from a model's size, so it is measured
(`python -m bench.experiments.audio_context`), and a checkpoint that was not measured hears whole windows, a
fine-tuned one too.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from whisper_server.core.types import WINDOW_S

if TYPE_CHECKING:
    from whisper_server.services.engines.checkpoint import Checkpoint

OUTPUT = "proj_out.weight"  # the embedding again, which some files have and others leave out

# Seconds of silence after the sound, by fingerprint (bench/experiments/audio_context.md).
SILENCE_S = {
    "7bcf269baa066afd": 5.0,  # openai/whisper-base
    "85404b0e8f4b8a6e": 8.0,  # openai/whisper-tiny.en
}


def silence_after(fingerprint: str) -> float:
    """Return how many seconds of silence a checkpoint is to hear after the sound; WINDOW_S: all there are."""
    return SILENCE_S.get(fingerprint, WINDOW_S)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return a digest of the first row of every tensor, in float16.

    It is the same in float16 and float32, as OpenAI's weights are published in both, and another one for
    what was fine-tuned from them, also where only a few matrices were.
    """
    import numpy as np  # noqa: PLC0415  (only when a model is converted)

    digest = hashlib.sha256()
    for name in checkpoint.names:
        if name != OUTPUT:
            row = np.ascontiguousarray(checkpoint.first_row(name).astype(np.float16))
            digest.update(f"{name} {row.shape}\n".encode())
            digest.update(row.tobytes())
    return digest.hexdigest()[:16]
