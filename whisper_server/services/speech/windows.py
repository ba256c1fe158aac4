"""Spans -> windows of at most 30 s; owns the time map between file time and window time.

Must not know how speech was found or what an engine does with a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from whisper_server.core.types import (
    FRAMES_PER_SECOND,
    SAMPLE_RATE,
    VOICE_FRAME_S,
    WINDOW_SAMPLES,
    Placed,
    Span,
    Window,
)
from whisper_server.services.speech.log_mel import log_mel, silence_beside


def pack(spans: Iterable[Span | None], n_mels: int) -> Iterator[Window | None]:
    """Put consecutive spans together until 30 s are full; yield as soon as the next does not fit.

    A None among the spans is passed on (see vad.steps).

    Holds the samples of one window and no more. Spans are joined end to end: each has the padding that
    vad.spans leaves around speech, so there is a pause at every seam, except where a long span was cut.
    """
    pending: list[Span] = []
    n_samples = 0
    for span in spans:
        if span is None:
            yield None
            continue
        if pending and n_samples + len(span.samples) > WINDOW_SAMPLES:
            yield _window(pending, n_mels)
            pending, n_samples = [], 0
        pending.append(span)
        n_samples += len(span.samples)
    if pending:
        yield _window(pending, n_mels)


def _window(spans: Sequence[Span], n_mels: int) -> Window:
    """Make one window of spans that fit into it."""
    places: list[Placed] = []
    n_samples = 0
    for span in spans:
        places.append(Placed(n_samples / SAMPLE_RATE, span.start_s, len(span.samples) / SAMPLE_RATE))
        n_samples += len(span.samples)
    samples = np.concatenate([span.samples for span in spans])
    # Spans are whole frames of voice detection, but for the last of a file, so these line up with the sound.
    voice = tuple(probability for span in spans for probability in span.voice)
    return Window(log_mel(samples, n_mels), n_samples / SAMPLE_RATE, tuple(places), voice)


def part(window: Window, start_s: float, end_s: float) -> Window:
    """Return [start_s, end_s) of a window, in its window time, as a window of its own.

    Columns of the spectrogram are taken over, as openai/whisper's `transcribe` takes a file's: nothing is
    computed, and no samples need to be kept. Behind them comes silence as `log_mel` writes it.
    """
    first, last = round(start_s * FRAMES_PER_SECOND), round(end_s * FRAMES_PER_SECOND)
    start_s, end_s = first / FRAMES_PER_SECOND, min(last / FRAMES_PER_SECOND, window.duration_s)
    mel = np.full_like(window.mel, silence_beside(window.mel))
    mel[:, : last - first] = window.mel[:, first:last]
    places = []
    for place in window.places:
        left = max(place.window_start_s, start_s)
        right = min(place.window_start_s + place.duration_s, end_s)
        if right > left:
            places.append(
                Placed(left - start_s, place.file_start_s + left - place.window_start_s, right - left)
            )
    voice = window.voice[round(start_s / VOICE_FRAME_S) : math.ceil(end_s / VOICE_FRAME_S)]
    return Window(mel, end_s - start_s, tuple(places), voice)
