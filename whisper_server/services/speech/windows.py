"""Spans -> windows of at most 30 s; owns the time map between file time and window time.

Must not know how speech was found or what an engine does with a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from whisper_server.core.types import SAMPLE_RATE, WINDOW_SAMPLES, Placed, Span, Window
from whisper_server.services.speech.log_mel import log_mel


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
    return Window(log_mel(samples, n_mels), n_samples / SAMPLE_RATE, tuple(places))
