"""What differs in an attempt above temperature 0: chance that comes with the seed, and fewer repetitions.

CTranslate2 samples with one generator per thread of its own, seeded at the thread's first draw from a global
and from then on by nothing: neither a second `set_random_seed` nor an option of a call reaches it
(bench/experiments/repeatable.md). A text would depend on what the thread decoded before. So nothing is
sampled. An attempt is a beam search like the first one, over encoder output with seeded noise, and with a
penalty for tokens that the text has already: both grow with the temperature. Pure; NumPy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# By how much the logits of tokens that the text has already are divided: 1.1 at temperature 0.2, the first
# attempt after the search, which ended the loops that were measured.
PENALTY_PER_TEMPERATURE = 0.5
MAX_PENALTY = 1.25  # more makes texts avoid "the" and the full stop


def repetition_penalty(temperature: float) -> float:
    """Return what logits of repeated tokens are divided by; 1 at temperature 0."""
    return min(1.0 + PENALTY_PER_TEMPERATURE * temperature, MAX_PENALTY)


def shaken(states: NDArray[np.float32], seed: int, temperature: float) -> NDArray[np.float32]:
    """Return encoder output [1500, d_model] of one window with noise of `temperature` times its deviation."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(states.shape, np.float32)
    return states + noise * np.float32(temperature * states.std(dtype=np.float64))
