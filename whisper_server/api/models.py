"""The shapes of requests and replies on the wire; they make the OpenAPI document right."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TranscriptionFields(BaseModel):
    """What a client may ask of a transcription, in a form or in JSON; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    language: str = Field("", description="Code or English name; absent or `auto`: detect it.")
    prompt: str = Field("", description="Text that the audio continues, or words that occur in it.")
    temperature: float = Field(0.0, description="0 to 1; 0 rises by itself where the text looks wrong.")
    response_format: str = Field("json", description="json, text, srt, verbose_json or vtt.")
    timestamp_granularities: tuple[str, ...] = Field(
        (), description="word and segment, with verbose_json. In a form also `timestamp_granularities[]`."
    )
    stream: bool = Field(False, description="Only false.")

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, data: Any) -> Any:
        """Treat null and empty as absent, as clients send them, and one granularity as a list of one."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value not in (None, "")}
        if isinstance(one := given.get("timestamp_granularities"), str):
            given["timestamp_granularities"] = (one,)
        return given


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


class AudioOptions(BaseModel):
    """Where older clients put the audio."""

    data: str


class JsonBody(TranscriptionFields):
    """POST /v1/audio/transcriptions as application/json; the audio is in one of the three fields."""

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
    messages: list[dict[str, Any]] | None = Field(
        None, description="Older clients: parts of type input_audio or audio in `content`."
    )


class JsonReply(BaseModel):
    """The reply to a JSON request for response_format json."""

    text: str
    processing_time: float = Field(description="Seconds that the request took.")
    model: str = Field(description="The name that was asked for.")
    format: str = Field(description="What the bytes were: m4a, mp3, wav, ...")


class Usage(BaseModel):
    """The length of the audio in whole seconds."""

    type: Literal["duration"]
    seconds: int


class PlainReply(BaseModel):
    """The reply to a form for response_format json."""

    text: str
    usage: Usage


class AudioInfoReply(BaseModel):
    """What the audio is."""

    size_bytes: int
    format: str
    container: str
    codec: str
    duration_s: float
    sample_rate_hz: int
    channels: int
    peak_dbfs: float | None = Field(description="null for digital silence.")
    rms_dbfs: float | None = Field(description="null for digital silence.")
    speech_s: float = Field(description="Seconds in which somebody speaks.")


class ModelHealth(BaseModel):
    """One model in memory or on its way."""

    name: str
    state: Literal["loading", "ready", "unloading"]
    memory_bytes: int


class HealthReply(BaseModel):
    """The server lives."""

    status: Literal["ok"]
    version: str
    uptime_s: float
    models: list[ModelHealth]


class ReadyReply(BaseModel):
    """The server takes work."""

    status: Literal["ready"]


class ModelObject(BaseModel):
    """One model, as OpenAI describes it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models there are."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class RootReply(BaseModel):
    """What this is."""

    name: str
    version: str
    docs: str
    transcriptions: str
    models: str
    health: str


class SegmentObject(BaseModel):
    """A phrase, with what the decoder thought of it; clients check that all ten fields are there."""

    id: int
    seek: int = Field(description="Where its window starts, in hundredths of a second.")
    start: float = Field(description="Seconds from the start of the file.")
    end: float
    text: str = Field(description="With the space that leads it.")
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class WordObject(BaseModel):
    """A word and when it is spoken."""

    word: str
    start: float = Field(description="Seconds from the start of the file.")
    end: float


class VerboseReply(BaseModel):
    """The reply for response_format verbose_json, to forms and to JSON."""

    task: Literal["transcribe", "translate"]
    language: str = Field(description="The English name: english, french, ...")
    duration: float = Field(description="Seconds.")
    text: str
    segments: list[SegmentObject] | None = Field(None, description="Absent if only words were asked for.")
    words: list[WordObject] | None = Field(None, description="With timestamp_granularities word.")
    usage: Usage | None = None


FormReply: TypeAlias = VerboseReply | PlainReply


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "The model 'whisper-9' does not exist.",
                        "type": "invalid_request_error",
                        "param": "model",
                        "code": "model_not_found",
                    }
                }
            ]
        }
    )

    error: ErrorDetail
