"""What a transcription is asked for, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from whisper_server.core.types import Priority, Task
from whisper_server.services.speech.vad import VadOptions


@dataclass(frozen=True, slots=True)
class TranscribeParams:
    """What a request asks for, checked."""

    model: str
    task: Task = "transcribe"
    language: str | None = None  # a code; None: detect it once, on the first window
    languages: tuple[str, ...] = ()  # codes to choose from where none is given; (): all
    prompt: str = ""  # on the first window only
    keywords: tuple[str, ...] = ()  # words to expect, on every window
    temperature: float = 0.0  # 0 climbs by itself where the text looks wrong; above 0 is used as it is
    word_timestamps: bool = False
    shows_segments: bool = True  # False: the reply has the words only
    logprobs: bool = False  # of every text token
    speakers: tuple[str, ...] | None = None  # names of the channels, each a speaker; None: mix the channels
    vad: VadOptions = VadOptions()  # noqa: RUF009  frozen
    priority: Priority = "normal"  # the request's share of a busy device
