"""A short clip costs a short clip: windows go to the encoder without most of their silence, guarded.

Whisper was trained on windows of 30 s. Over less, a model may lose itself: it repeats a phrase without end,
or writes improbable text. Both can be seen, so such a window is decoded again in full, before anything is
tried at higher temperatures. How much silence a model needs is for the engine to know
(`EngineInfo.silence_s`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from whisper_server.core.types import (
    FRAMES_PER_SECOND,
    WINDOW_FRAMES,
    WINDOW_S,
    Decoded,
    DecodeOptions,
    Window,
    WindowJob,
)
from whisper_server.services.decoding.leftover import CUT_OFF_TOKENS
from whisper_server.services.decoding.loops import most_tokens
from whisper_server.services.engines.base import IsWanted, everything
from whisper_server.services.engines.batching import rows_by
from whisper_server.services.engines.model_shape import STEP_FRAMES

DRAFT_SILENCE_S = 1.0  # what loses itself over so little is not shown, and soon decoded again


class DecodeFrames(Protocol):
    """Decodes windows that share options from their first frames; see `WindowDecoder.decode`."""

    def __call__(
        self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted, n_frames: int
    ) -> list[Decoded]:
        """Decode; result i belongs to job i."""
        ...


class ContextDecoder:
    """Decodes windows over as much silence as the model needs; a window's text does not depend on others."""

    def __init__(self, decode: DecodeFrames, silence_s: float) -> None:
        """Take what decodes, and how many seconds of silence the encoder is to hear after the sound."""
        self._decode = decode
        self._silence_s = silence_s

    def decode(
        self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted = everything
    ) -> list[Decoded]:
        """Decode jobs that share `options`; result i belongs to job i. Raises as `WindowDecoder.decode`."""
        if options.is_draft:
            return self._drafts(jobs, options, is_wanted)
        lengths = [frames_of(job.window, self._silence_s) for job in jobs]
        # One attempt, and loops are left in it: they tell that it is not to be trusted.
        once = replace(options, temperatures=options.temperatures[:1], compression_ratio_threshold=math.inf)
        found: dict[int, Decoded] = {}
        for rows in rows_by(lengths):
            if lengths[rows[0]] < WINDOW_FRAMES:
                decoded = self._decode_rows(rows, jobs, once, is_wanted, lengths[rows[0]])
                found.update(
                    (row, result)
                    for row, result in zip(rows, decoded, strict=True)
                    if is_trusted(result, jobs[row].window, options) or not is_wanted(row)
                )
        whole = [row for row in range(len(jobs)) if row not in found]
        if whole:
            decoded = self._decode_rows(whole, jobs, options, is_wanted, WINDOW_FRAMES)
            found.update(zip(whole, decoded, strict=True))
        return [found[row] for row in range(len(jobs))]

    def _drafts(
        self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted
    ) -> list[Decoded]:
        """Decode drafts over less silence: what goes wrong there is not tried again, the next draft is."""
        silence_s = min(self._silence_s, DRAFT_SILENCE_S) if self._silence_s < WINDOW_S else WINDOW_S
        lengths = [frames_of(job.window, silence_s) for job in jobs]
        found: dict[int, Decoded] = {}
        for rows in rows_by(lengths):
            decoded = self._decode_rows(rows, jobs, options, is_wanted, lengths[rows[0]])
            found.update(zip(rows, decoded, strict=True))
        return [found[row] for row in range(len(jobs))]

    def _decode_rows(
        self,
        rows: Sequence[int],
        jobs: Sequence[WindowJob],
        options: DecodeOptions,
        is_wanted: IsWanted,
        n_frames: int,
    ) -> list[Decoded]:
        chosen = [jobs[row] for row in rows]
        return self._decode(chosen, options, lambda index: is_wanted(rows[index]), n_frames)


def frames_of(window: Window, silence_s: float) -> int:
    """Return how many frames of a window the encoder gets: sound and silence, in steps, at most all."""
    needed = window.n_frames + round(silence_s * FRAMES_PER_SECOND)
    return min(WINDOW_FRAMES, -(-needed // STEP_FRAMES) * STEP_FRAMES)


def is_trusted(decoded: Decoded, window: Window, options: DecodeOptions) -> bool:
    """Tell whether a text that was heard in a short context may stand: no loop, probable, and with an end."""
    n_tokens = len(decoded.tokens)
    return (
        decoded.avg_logprob >= options.logprob_threshold
        and decoded.compression_ratio <= options.compression_ratio_threshold
        and n_tokens < CUT_OFF_TOKENS
        and n_tokens <= most_tokens(window.duration_s)
    )
