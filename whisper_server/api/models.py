"""The shapes of replies on the wire; they make the OpenAPI document right. Requests are in `bodies`."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field


class TokenLogprob(BaseModel):
    """How sure the model is of one token."""

    token: str = Field(description="Its text; replacement characters where it is a part of a character.")
    logprob: float
    bytes: list[int] = Field(description="Its bytes in UTF-8.")


class JsonReply(BaseModel):
    """The reply to a JSON request for response_format json."""

    text: str
    processing_time: float = Field(description="Seconds that the request took.")
    model: str = Field(description="The name that was asked for.")
    format: str = Field(description="What the bytes were: m4a, mp3, wav, ...")
    languages: list[LanguageCode] | None = Field(None, description="Only where `languages` was sent.")
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include=logprobs.")


class Usage(BaseModel):
    """The length of the audio in whole seconds."""

    type: Literal["duration"]
    seconds: int


class LanguageCode(BaseModel):
    """A language that was heard."""

    code: str


class PlainReply(BaseModel):
    """The reply to a form for response_format json."""

    text: str
    usage: Usage
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")
    languages: list[LanguageCode] = Field(
        [], description="Only where `languages` was sent and somebody speaks: the one that was detected."
    )


class DiarizedSegment(BaseModel):
    """A phrase and who says it."""

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str = Field(description="A name of `known_speaker_names`, or A, B, ... by channel.")


class DiarizedReply(BaseModel):
    """The reply for response_format diarized_json."""

    task: Literal["transcribe"]
    duration: float
    text: str = Field(description='One line per turn: "A: ..."')
    segments: list[DiarizedSegment]
    usage: Usage


class TranslationReply(BaseModel):
    """The reply of a translation for response_format json."""

    text: str


class DeltaEvent(BaseModel):
    """One event of a stream: what the next phrase adds to the text."""

    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")


class DoneEvent(BaseModel):
    """The last event of a stream: the whole text, which is all deltas joined."""

    type: Literal["transcript.text.done"]
    text: str
    languages: list[LanguageCode] | None = Field(None, description="Only where `languages` was sent.")
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")


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


class EngineNotes(BaseModel):
    """What runs a model, and how."""

    engine: str = Field(description="ctranslate2 or torch.")
    device: str
    compute_type: str = Field(description="Number format of the computation.")
    max_batch: int = Field(description="Windows that one call takes.")
    workers: int = Field(description="Calls at once.")
    weights_bytes: int = Field(description="Memory that the weights take.")
    working_bytes: int = Field(description="Memory that calls take beside them, at most.")
    optimizations: list[str] = Field(description="Each: on, or off and why.")


class ModelHealth(BaseModel):
    """One model in memory or on its way."""

    name: str
    state: Literal["loading", "ready", "degraded", "unloading"]
    memory_bytes: int = Field(description="Weights and work, as counted for WHISPER_MAX_MODEL_MEMORY_MB.")
    engine: EngineNotes | None = Field(None, description="Absent while the model loads.")


class HealthReply(BaseModel):
    """The server lives; `stopping` says that it takes no new work and ends soon."""

    status: Literal["ok", "degraded", "stopping"]
    version: str
    uptime_s: float
    models: list[ModelHealth]


class QueueObject(BaseModel):
    """What is inside of the server, and how much of it may be."""

    requests: int = Field(description="Requests with audio, running and waiting.")
    max_requests: int
    audio_seconds: float = Field(description="What of their audio is still to be decoded, as far as known.")
    max_audio_seconds: float
    upload_bytes: int = Field(description="What of their bodies is held in memory.")
    max_upload_bytes: int


class ReadyReply(BaseModel):
    """The server takes work."""

    status: Literal["ready"]
    queue: QueueObject


class ModelObject(BaseModel):
    """One model, as OpenAI describes it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    engine: EngineNotes | None = Field(None, description="Of a model in memory; absent for others.")


class ModelList(BaseModel):
    """The models there are."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class DeletedModel(BaseModel):
    """A model is gone from memory, and from the disk where the settings allow that."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class PulledModel(BaseModel):
    """A model is on the disk, ready to be loaded without a network."""

    id: str
    object: Literal["model"] = "model"
    pulled: Literal[True] = True


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
