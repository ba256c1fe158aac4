"""The clips of the nano model as samples, those that it hears right in any format, and a count of errors."""

from __future__ import annotations

import numpy as np

from tests.conftest import SAMPLES, all_samples
from tests.support.audio_files import samples_of

RATE = 16_000
ROBUST = [sample for sample in all_samples() if sample.is_robust and sample.kind != "translate"]


def pcm(name: str) -> np.ndarray:
    return samples_of((SAMPLES / name).read_bytes())


def word_errors(expected: str, heard: str) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard.split()) + 1))
    for i, word in enumerate(expected.split(), 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard.split(), 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]
