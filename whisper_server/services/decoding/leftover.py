"""What the model left undone in a window: stretches with a voice that no phrase of it covers. Pure.

Whisper often closes its last timestamp seconds before the speech ends; it also begins late, or leaves a
middle out. openai/whisper goes on from the last timestamp, in a window that depends on the one before
(`transcribe`). Here each stretch becomes a window of its own, wherever it lies, so that windows stay
independent of one another and can share a batch. Where voice was not looked for, sound stands for it, and
the model must be sure of what it writes there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from whisper_server.core.types import (
    FRAMES_PER_SECOND,
    MIN_VOICE_S,
    SECONDS_PER_TIMESTAMP,
    VOICE_FRAME_S,
    Decoded,
    Window,
)
from whisper_server.services.decoding import belief, segments, word_times
from whisper_server.services.engines.tokenizer import Tokenizer

MIN_STRETCH_S = 1.0  # timestamps are some tenths of a second off: less is no left-out speech
CUT_OFF_TOKENS = 220  # openai/whisper gives a text 224: one this long ended because there was no room

# A phrase whose timestamps span more than its words. Counted in UTF-8, where a syllable of Chinese has three
# bytes; speech had 8 and more per second of voice (bench/experiments/hearing.md).
SPARSE_VOICE_S = 4.0
SPARSE_BYTES_PER_S = 5.0
MORE_LOGPROB = -0.9  # "Thanks for watching." over a stretch of breath and laughter is less probable


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a window to decode again, as one window or several that touch; in window time."""

    start_s: float
    ends_s: tuple[float, ...]  # of each of the windows
    has_text: bool  # a phrase covers it already; what comes must be longer to replace that

    @property
    def pieces(self) -> Iterator[tuple[float, float]]:
        """Start and end of each of the windows."""
        return pairwise((self.start_s, *self.ends_s))


def is_more(window: Window, decoded: Decoded) -> bool:
    """Tell whether a stretch really had more to say: the model said once that it has nothing."""
    return decoded.avg_logprob > MORE_LOGPROB if window.voice else belief.is_sure(decoded)


def completed(decoded: Decoded, tokenizer: Tokenizer) -> Decoded:
    """Leave out a last phrase that ran into the token limit, unless it is the only one: it is decoded again.

    Of the others, the model said where they end.
    """
    tokens = decoded.tokens
    if len(tokens) < CUT_OFF_TOKENS or tokenizer.is_timestamp(tokens[-1]):
        return decoded
    last = max((at for at, token in enumerate(tokens) if tokenizer.is_timestamp(token)), default=0)
    kept = tokens[:last]
    n_text = len(tokenizer.text_tokens(kept))
    if not n_text:
        return decoded
    # A timestamp that opened the phrase goes with it; one that also closed the phrase before it stays.
    if not tokenizer.is_timestamp(kept[-1]):
        kept = tokens[: last + 1]
    return replace(decoded, tokens=kept, token_times=decoded.token_times[:n_text])


def stretches(
    window: Window, decoded: Decoded, tokenizer: Tokenizer, threshold: float, *, is_part: bool = False
) -> list[Stretch]:
    """Return what is to be decoded again, in order.

    Each is strictly shorter than the window, since a window without any phrase has none: where nothing
    came, nothing more will come. Only in a whole window with a voice, not in a part of one, is what lies
    under a phrase decoded again: singing has few words for its voice however short the part is. Takes some
    milliseconds without voice detection: keep it off the event loop.
    """
    if decoded.is_silence:
        return []
    said = list(segments.phrases(decoded.tokens, window.duration_s, tokenizer))
    spoken = [phrase for phrase in said if tokenizer.text(phrase.tokens).strip()]
    found: list[Stretch] = []
    at_s = 0.0
    for phrase in spoken:
        found += _uncovered(window, at_s, phrase.start_s, threshold)
        if window.voice and not is_part:
            found += _sparse(window, phrase, tokenizer.text(phrase.tokens), threshold)
        at_s = phrase.end_s
    return found + (_uncovered(window, at_s, window.duration_s, threshold) if spoken else [])


def _uncovered(window: Window, start_s: float, end_s: float, threshold: float) -> list[Stretch]:
    """Return the stretch between two phrases, or none where too little of it has a voice."""
    is_all = end_s - start_s > window.duration_s - SECONDS_PER_TIMESTAMP  # beside a phrase of no length
    if is_all or end_s - start_s < MIN_STRETCH_S:
        return []
    if window.voice:
        heard_s = belief.voice_s(window, start_s, end_s, threshold)
    else:
        heard_s = _sound_s(window, start_s, end_s)
    return [Stretch(start_s, (end_s,), has_text=False)] if heard_s >= MIN_VOICE_S else []


def _sound_s(window: Window, start_s: float, end_s: float) -> float:
    """Return how many seconds between two window times stand out from the background of the window."""
    is_sound = word_times.loudness(window).is_sound
    first, last = word_times.frames(start_s), word_times.frames(end_s)
    return float(is_sound[first:last].sum()) / FRAMES_PER_SECOND


def _sparse(window: Window, phrase: segments.Phrase, text: str, threshold: float) -> list[Stretch]:
    """Return a phrase that has too little text for its voice, cut in two in a pause near its middle."""
    heard_s = belief.voice_s(window, phrase.start_s, phrase.end_s, threshold)
    if heard_s < SPARSE_VOICE_S or len(text.strip().encode()) >= SPARSE_BYTES_PER_S * heard_s:
        return []
    quarter_s = (phrase.end_s - phrase.start_s) / 4
    first = int((phrase.start_s + quarter_s) / VOICE_FRAME_S)
    middle = window.voice[first : int((phrase.end_s - quarter_s) / VOICE_FRAME_S)]
    cut_s = round((first + _longest_low(middle, threshold)) * VOICE_FRAME_S / SECONDS_PER_TIMESTAMP)
    return [Stretch(phrase.start_s, (cut_s * SECONDS_PER_TIMESTAMP, phrase.end_s), has_text=True)]


def _longest_low(voice: Sequence[float], threshold: float) -> int:
    """Return the middle of the longest run without a voice, or where the voice is least probable."""
    best, middle, run = 0, min(range(len(voice)), key=voice.__getitem__), 0
    for at, probability in enumerate(voice):
        run = run + 1 if probability < threshold else 0
        if run > best:
            best, middle = run, at - run // 2
    return middle
