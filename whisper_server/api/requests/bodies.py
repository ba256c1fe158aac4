"""The shapes of request bodies on the wire; they check values and make the OpenAPI document right."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from whisper_server.api.requests.form import LISTS
from whisper_server.core.types import Priority, VadOptions

_SEED = (
    "Beyond OpenAI: a whole number of at most 64 bits. The same request gives the same text; another seed "
    "may give another text where the model is not sure, or `temperature` is above 0."
)
_STRATEGIES = "Use auto, or an object of type server_vad."


class _Fields(BaseModel):
    """Fields of a request; null and empty mean absent, as clients send them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, data: Any) -> Any:
        """Drop what is absent, and take one text for a list of one."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value not in (None, "")}
        for name in given.keys() & set(LISTS):
            values = given[name] if isinstance(given[name], list | tuple) else (given[name],)
            # Names of speakers count by place; elsewhere an empty text says nothing.
            given[name] = tuple(value for value in values if value != "" or name == "known_speaker_names")
        return given


class WorkFields(_Fields):
    """What every request that takes the model's time may say."""

    priority: Priority = Field(
        "normal",
        description="Beyond OpenAI: the request's share of a busy server. interactive counts 4 times as "
        "much as normal, background a quarter; no request waits for the end of another.",
    )


class TrackFields(_Fields):
    """Which of several audio tracks is heard."""

    audio_track: int | None = Field(
        None,
        description="Beyond OpenAI: which of several audio tracks to hear, from 0 (ffmpeg's `0:a:0`); "
        "`/debug/audio-info` lists them. Absent: one in `language`, else the default, unless it is silent.",
    )


class HeardTrack(TrackFields):
    """What of a transcription's fields counts for the choice of the track."""

    language: str = ""


class LanguageFields(_Fields):
    """How the language is found where the request does not give it."""

    language_switching: bool | None = Field(
        None,
        description="Beyond OpenAI: whether a part of the file that is surely in another language is taken "
        "to be in that. false: one language for the whole file. Absent: as the server is set, which is true "
        "unless its operator says otherwise.",
    )


class SubtitleFields(WorkFields, TrackFields, LanguageFields):
    """How large a cue of subtitles may be; the bounds hold for srt and vtt only."""

    max_line_chars: int = Field(42, description="For srt and vtt: 10 to 200; full-width characters count 2.")
    max_lines: int = Field(2, description="For srt and vtt: 1 to 4 lines in a cue.")
    max_cue_seconds: float = Field(7.0, description="For srt and vtt: 1 to 60; longer cues are split.")


class SpeakerFields(_Fields):
    """What is known of the speakers."""

    known_speaker_names: tuple[str, ...] = Field(
        (),
        description="Where speakers are told apart: at most 4 names, of the samples in "
        "`known_speaker_references`, or else of the channels in order. The others are A, B, ...",
    )
    known_speaker_references: tuple[str, ...] = Field(
        (), description="A sample for each name, 2 to 10 s of the voice alone, as a data: URL."
    )
    num_speakers: int | None = Field(None, description="Beyond OpenAI: how many speakers there are, 1 to 20.")
    min_speakers: int | None = Field(None, description="Beyond OpenAI: there are at least so many.")
    max_speakers: int | None = Field(None, description="Beyond OpenAI: there are at most so many.")


class ServerVad(BaseModel):
    """How to find speech; what is left out keeps the server's default, which is made for files."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    type: Literal["server_vad"]
    threshold: float | None = Field(None, ge=0, le=1, description="Probability from which a sound is speech.")
    prefix_padding_ms: int | None = Field(None, ge=0, le=10_000, description="Kept around speech.")
    silence_duration_ms: int | None = Field(None, ge=0, le=10_000, description="A pause that splits speech.")

    def options(self) -> VadOptions:
        """Return what was asked for, and the defaults for the rest; without a voice nothing is heard."""
        asked = {
            "threshold": self.threshold,
            "speech_pad_ms": self.prefix_padding_ms,
            "min_silence_ms": self.silence_duration_ms,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return VadOptions(**given, keeps_sound=False)


def _chunking(value: Any) -> Any:
    """Return the object of a strategy, None for the server's own; text may hold the object as JSON."""
    if isinstance(value, str):
        value = _parsed(value.strip())
    if value in (None, "", "auto"):
        return None
    if not isinstance(value, dict):
        raise ValueError(_STRATEGIES)  # noqa: TRY004  (what pydantic turns into its own error)
    return {name: each for name, each in value.items() if each not in (None, "")}


def _parsed(text: str) -> Any:
    if text in {"", "auto"}:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_STRATEGIES) from error


Chunking = Annotated[
    ServerVad | None, BeforeValidator(_chunking, json_schema_input_type=Literal["auto"] | ServerVad | None)
]


class JobFields(SubtitleFields):
    """Whether the work goes on without the request."""

    background: bool = Field(
        False,
        description="Beyond OpenAI: answer 202 with a job at once, whose result will be at "
        "`/v1/jobs/{id}/result`. Other requests go before it.",
    )

    callback_url: str = Field(
        "",
        description="With `background`: where a signed event goes when the job has ended. The operator says "
        "to which hosts (WHISPER_CALLBACK_HOSTS).",
    )
    file_url: str = Field(
        "",
        description="With `background`, in place of the file: where the job fetches it. The operator says "
        "from which hosts (WHISPER_FILE_URL_HOSTS).",
    )


class TranscriptionFields(JobFields, SpeakerFields):
    """What a client may ask of a transcription, in a form or in JSON; unknown fields are ignored."""

    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    language: str = Field("", description="Code or English name; absent or `auto`: detect it.")
    languages: tuple[str, ...] = Field(
        (), description="Languages to choose from where `language` is absent; the reply names those heard."
    )
    prompt: str = Field("", description="Text that the audio, or each channel, continues.")
    keywords: tuple[str, ...] = Field(
        (), description="Words and phrases to expect, for the whole file: names, terms, a way of writing."
    )
    hotwords: tuple[str, ...] = Field((), description="Another name for `keywords`.")
    temperature: float = Field(0.0, description="0 to 1; 0 rises by itself where the text looks wrong.")
    seed: int = Field(0, description=_SEED)
    response_format: str = Field(
        "json",
        description="json, text, srt, verbose_json, vtt or diarized_json, which says who speaks: channels "
        "are speakers where they differ, else voices tell.",
    )
    diarize: bool = Field(
        False,
        description="Beyond OpenAI: say who speaks in verbose_json, text, srt and vtt too.",
    )
    timestamp_granularities: tuple[str, ...] = Field(
        (), description="word and segment, with verbose_json. In a form also `timestamp_granularities[]`."
    )
    include: tuple[str, ...] = Field(
        (),
        description="logprobs, with json: how sure the model is of each token. In a form also `include[]`.",
    )
    chunking_strategy: Chunking = Field(
        None, description="How speech is found; in a form `chunking_strategy[type]` and so on, or JSON."
    )
    stream: bool = Field(
        False,
        description="Send the text as Server-Sent Events while it is being made; with verbose_json and "
        "diarized_json also the times of each phrase. Not with srt and vtt.",
    )


class FormBody(TranscriptionFields):
    """POST /v1/audio/transcriptions as multipart/form-data."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"file": "<the file's bytes>", "model": "whisper-1"},
                {
                    "file": "<the file's bytes>",
                    "model": "whisper-1",
                    "language": "en",
                    "response_format": "verbose_json",
                    "timestamp_granularities": ["word", "segment"],
                },
            ]
        }
    )

    file: str = Field(json_schema_extra={"format": "binary"}, description="The audio, in any usual format.")


class TranslationFields(JobFields):
    """What a client may ask of a translation; unknown fields are ignored."""

    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    prompt: str = Field("", description="English text that the translation continues.")
    temperature: float = Field(0.0, description="0 to 1; 0 rises by itself where the text looks wrong.")
    seed: int = Field(0, description=_SEED)
    response_format: str = Field("json", description="json, text, srt, verbose_json or vtt.")


class InferenceFields(WorkFields, TrackFields):
    """What whisper.cpp's clients ask; what else its server knows is ignored."""

    model: str = Field("", description="Beyond whisper.cpp: a name of GET /v1/models.")
    response_format: str = Field("json", description="json, text, srt, verbose_json or vtt.")
    language: str = Field("", description="Code or English name; absent or `auto`: detect it.")
    detect_language: bool = Field(False, description="Detect the language, whatever `language` says.")
    translate: bool = Field(False, description="Write English.")
    prompt: str = Field("", description="Text that the audio continues.")
    temperature: float = Field(0.0, description="0 to 1; 0 rises by itself where the text looks wrong.")


class InferenceForm(InferenceFields):
    """POST /inference as multipart/form-data."""

    file: str = Field(json_schema_extra={"format": "binary"}, description="The audio, in any usual format.")


class TranslationForm(TranslationFields):
    """POST /v1/audio/translations as multipart/form-data."""

    file: str = Field(json_schema_extra={"format": "binary"}, description="The audio, in any usual format.")


class TranslationJson(TranslationFields):
    """POST /v1/audio/translations as application/json."""

    audio: str = Field(description="The file's bytes as base64, or as a data: URL.")


class DiarizationFields(SpeakerFields, WorkFields, HeardTrack):
    """What a client may ask of a diarization; unknown fields are ignored."""

    response_format: str = Field("json", description="json or rttm.")


class DiarizationForm(DiarizationFields):
    """POST /v1/audio/diarization as multipart/form-data."""

    file: str = Field(json_schema_extra={"format": "binary"}, description="The audio, in any usual format.")


class DiarizationJson(DiarizationFields):
    """POST /v1/audio/diarization as application/json."""

    audio: str = Field(description="The file's bytes as base64, or as a data: URL.")


class AlignmentFields(SubtitleFields):
    """What a client may ask of an alignment; unknown fields are ignored."""

    text: str = Field("", description="What is said: each line is a segment, of a single line each sentence.")
    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    language: str = Field("", description="Code or English name; absent or `auto`: detect it.")
    response_format: str = Field("json", description="json, verbose_json, srt or vtt.")


class AlignmentForm(AlignmentFields):
    """POST /v1/audio/alignments as multipart/form-data."""

    file: str = Field(json_schema_extra={"format": "binary"}, description="The audio, in any usual format.")


class AlignmentJson(AlignmentFields):
    """POST /v1/audio/alignments as application/json."""

    audio: str = Field(description="The file's bytes as base64, or as a data: URL.")


class AudioOptions(BaseModel):
    """Where older clients, and OpenRouter's, put the audio."""

    data: str = Field(description="The file's bytes as base64, or as a data: URL.")


class JsonBody(TranscriptionFields):
    """POST /v1/audio/transcriptions as application/json; the audio is in one of four fields."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"audio": "UklGRiQAAABXQVZF...", "model": "whisper-1", "language": "auto"},
                {"audio": "data:audio/mpeg;base64,SUQzBAAAAAA...", "response_format": "srt"},
            ]
        }
    )

    audio: str | None = Field(None, description="The file's bytes as base64, or as a data: URL.")
    audio_options: AudioOptions | None = Field(None, description="Older clients.")
    input_audio: AudioOptions | None = Field(
        None, description="OpenRouter's clients, whose replies are those of forms."
    )
    messages: list[dict[str, Any]] | None = Field(
        None, description="Older clients: parts of type input_audio or audio in `content`."
    )


class StreamOptions(_Fields):
    """Options of a chat stream."""

    include_usage: bool = Field(False, description="Send one more chunk, with the usage.")


class ChatFields(WorkFields, TrackFields, LanguageFields):
    """What a client may ask of a chat completion; every other parameter of the chat API is ignored."""

    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    language: str = Field("", description="Beyond OpenAI: code or English name; absent: detect it.")
    stream: bool = Field(False, description="Send the text as Server-Sent Events while it is being made.")
    stream_options: StreamOptions = StreamOptions(include_usage=False)


class ChatBody(ChatFields):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(
        description="The last `input_audio` part of the last message that has one is transcribed; text parts "
        "beside it become the prompt."
    )
