"""Which language a recording is in, by its first minutes of speech; nothing is written down.

Films begin with music and credits, so windows without a voice are passed over, and several windows are
heard together, as at the beginning of a transcript (`decoding.language.pooled`): one phrase in another
language does not decide. Must not know how audio is opened, or of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper_server.core.types import DecodeOptions, Priority, VadOptions, Window, WindowJob
from whisper_server.services.decoding.language import Heard, pooled
from whisper_server.services.transcription import SampleStream, has_voice, heard_in, windows_of

if TYPE_CHECKING:
    from whisper_server.services.loaded_models.speech_model import SpeechModel
    from whisper_server.services.work_pool import WorkPool

ENOUGH_WINDOWS = 4  # with a voice: up to two minutes of speech
NOTHING_DECODED = DecodeOptions(temperatures=())
NO_SPEECH = ("en", 0.0)  # as a Whisper says of silence, but not sure of it at all


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a recording that is asked about, in seconds of file time."""

    start_s: float = 0.0
    end_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Detection:
    """The language that most speaks for."""

    code: str
    confidence: float  # mean probability over the windows that were heard, by the seconds of their voice


async def detect_language(
    audio: SampleStream,
    model: SpeechModel,
    pool: WorkPool,
    stretch: Stretch,
    priority: Priority = "normal",
) -> Detection:
    """Listen until enough speech was heard, and no further; closes the audio.

    Raises what `Transcription.segments` does.
    """
    heard: list[Heard] = []
    with model.scheduler.open_stream(priority) as stream:
        async with contextlib.aclosing(_spoken(audio, model.engine.info.n_mels, pool, stretch)) as windows:
            async for window in windows:
                job = stream.submit(WindowJob(window, None), NOTHING_DECODED)
                decoded = await asyncio.wrap_future(job)
                heard.append(heard_in(window, decoded))
                if len(heard) == ENOUGH_WINDOWS:
                    break
    if not heard:
        return Detection(*NO_SPEECH)
    together = pooled(heard)
    return Detection(together.best, together.scores[together.best])


async def _spoken(
    audio: SampleStream, n_mels: int, pool: WorkPool, stretch: Stretch
) -> AsyncGenerator[Window, None]:
    """Yield the windows with a voice that lie in the stretch, in part at least."""
    options = VadOptions(keeps_sound=False)
    produced = pool.iterate(windows_of(audio, options, n_mels), audio.ready)
    async with contextlib.aclosing(produced):  # type: ignore[type-var]
        async for window in produced:
            if window is None or not has_voice(window, options.threshold):
                continue
            if window.start_s >= stretch.end_s:
                return
            if window.file_time(window.duration_s, is_end=True) > stretch.start_s:
                yield window
