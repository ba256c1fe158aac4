"""Query parameters of whisper-asr-webservice's routes -> checked values; how large their bodies may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from whisper_server.api.requests.bodies import SubtitleFields, TrackFields
from whisper_server.core.languages import parse_language
from whisper_server.core.types import ModelSource, TranscribeParams, VadOptions
from whisper_server.core.validators import MAX_PROMPT_CHARS
from whisper_server.services.language_detection import Stretch
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options

FILE = "audio_file"
ROUTES = frozenset({"/asr", "/detect-language"})

_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
_ENCODE = "`false`: the file is headerless PCM, 16 bits, little-endian, 16 kHz, mono, and may be as long as "
_MODEL = "Beyond whisper-asr-webservice: a name of GET /v1/models; absent: the server's default."


class AsrQuery(SubtitleFields):
    """What POST /asr takes in its query; what is unknown is ignored."""

    task: Literal["transcribe", "translate"] = Field("transcribe", description="`translate`: English text.")
    language: str = Field("", description="Code or English name; absent or `auto`: detect it.")
    output: Literal["txt", "srt", "vtt", "tsv", "json"] = Field("txt", description="Format of the reply.")
    encode: bool = Field(True, description=_ENCODE + "MAX_AUDIO_SECONDS; else it is any audio or video file.")
    word_timestamps: bool = Field(False, description="Words and their times, with `output=json`.")
    initial_prompt: str = Field("", description="Text that the audio continues.")
    vad_filter: bool = Field(False, description="Leave out sound without a voice.")
    diarize: bool = Field(False, description="Channels that differ are speakers, with `output=json`.")
    model: str = Field("", description=_MODEL)
    video_file: str = Field("", description="Ignored: the name of the film.")
    min_speakers: str = Field("", description="Ignored.")
    max_speakers: str = Field("", description="Ignored.")

    def params(self, model: ModelSource) -> TranscribeParams:
        """Return what is to be done; raises `UnknownLanguage`."""
        return TranscribeParams(
            model=model,
            task=self.task,
            language=parse_language(self.language),
            prompt=self.initial_prompt[-MAX_PROMPT_CHARS:],
            word_timestamps=self.word_timestamps or self.output in {"srt", "vtt"},
            audio_track=self.audio_track,
            vad=VadOptions(keeps_sound=not self.vad_filter),
            priority=self.priority,
        )

    def subtitles(self) -> SubtitleOptions:
        """Return how large a cue may be; raises `InvalidRequest`."""
        return check_options(self.max_line_chars, self.max_lines, self.max_cue_seconds)


class DetectQuery(TrackFields):
    """What POST /detect-language takes in its query."""

    encode: bool = Field(True, description=_ENCODE + "MAX_AUDIO_SECONDS; else it is any audio or video file.")
    detect_lang_offset: float = Field(0.0, ge=0, allow_inf_nan=False, description="Seconds to pass over.")
    detect_lang_length: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Seconds to listen to; absent: two minutes of speech."
    )
    model: str = Field("", description=_MODEL)
    video_file: str = Field("", description="Ignored: the name of the film.")

    def stretch(self) -> Stretch:
        """Return the part of the recording that is asked about."""
        start_s, length_s = self.detect_lang_offset, self.detect_lang_length
        return Stretch(start_s) if length_s is None else Stretch(start_s, start_s + length_s)


def is_raw(path: str, query: Mapping[str, str]) -> bool:
    """Tell whether a request brings samples without a header, which are heard as they come in."""
    return path in ROUTES and query.get("encode", "").strip().lower() in _FALSE
