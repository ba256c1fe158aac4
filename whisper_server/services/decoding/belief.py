"""Which phrases are to be believed: those with enough voice, and those that the model is sure of. Pure.

Whisper writes something over almost every sound: over noise "Thank you.", over music a line of a film's
credits. Voice detection knows better where there is no speech, but misses what is sung, and speech in noise,
which the model writes down with a high probability. So either of them will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from whisper_server.core.types import VOICE_FRAME_S, Decoded, Window

VOICE_THRESHOLD = 0.5  # Silero's: the probability from which a frame has a voice

# What was written over noise and music without a voice stayed beyond one of them, and no word that was
# spoken did (bench/experiments/hearing.md).
SURE_NO_SPEECH_PROB = 0.3
SURE_LOGPROB = -0.6
SURE_COMPRESSION_RATIO = 2.2
# Where the language was detected: over music a word of Sinhala was probable, its language less so.
SURE_LANGUAGE_PROBABILITY = 0.8
LOOP_TOKENS = 4  # one or two words

# Of an unsure text, in UTF-8, for each second with a voice. Speech has 12 to 20, so a sixth of its voice will
# do; a few frames in which a noise sounds like one make no line of a film's credits (150 and more).
MAX_BYTES_PER_VOICE_S = 100.0


def is_believed(text: str, heard_s: float, decoded: Decoded) -> bool:
    """Tell whether a phrase with so many seconds of voice is to be shown."""
    return is_sure(decoded) or len(text.strip().encode()) <= MAX_BYTES_PER_VOICE_S * heard_s


def is_sure(decoded: Decoded) -> bool:
    """Tell whether the model is sure of its text, of its language, and that there is any."""
    return (
        decoded.no_speech_prob < SURE_NO_SPEECH_PROB
        and decoded.avg_logprob > SURE_LOGPROB
        and decoded.compression_ratio < SURE_COMPRESSION_RATIO
        and decoded.language_probability >= SURE_LANGUAGE_PROBABILITY
        and not _loops(decoded.tokens)
    )


def _loops(tokens: Sequence[int]) -> bool:
    """Tell whether a few tokens come three times in a row; a short text hides that from zlib."""
    return any(
        tokens[at : at + n] == tokens[at + n : at + 2 * n] == tokens[at + 2 * n : at + 3 * n]
        for n in range(1, LOOP_TOKENS + 1)
        for at in range(len(tokens) - 3 * n + 1)
    )


def spoken_s(window: Window) -> float:
    """Return how many seconds of a window have a voice; all of it, where that was not looked for."""
    return voice_s(window, 0.0, window.duration_s, VOICE_THRESHOLD) if window.voice else window.duration_s


def voice_s(window: Window, start_s: float, end_s: float, threshold: float) -> float:
    """Return how many seconds between two window times have a voice."""
    heard = sum(probability >= threshold for probability in voice_between(window, start_s, end_s))
    return heard * VOICE_FRAME_S


def voice_between(window: Window, start_s: float, end_s: float) -> Sequence[float]:
    """Return the probabilities of the frames that lie, in part at least, between two window times."""
    return window.voice[int(start_s / VOICE_FRAME_S) : math.ceil(end_s / VOICE_FRAME_S)]
