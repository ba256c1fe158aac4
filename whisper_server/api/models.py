"""The shapes of requests and replies on the wire; they make the OpenAPI document right."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whisper_server.api.chunking import Chunking
from whisper_server.api.fields import LISTS


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
            given[name] = tuple(value for value in values if value != "")
        return given


class SubtitleFields(_Fields):
    """How large a cue of subtitles may be; other formats ignore it."""

    max_line_chars: int = Field(42, description="For srt and vtt: 10 to 200; full-width characters count 2.")
    max_lines: int = Field(2, description="For srt and vtt: 1 to 4 lines in a cue.")
    max_cue_seconds: float = Field(7.0, description="For srt and vtt: 1 to 60; longer cues are split.")


class TranscriptionFields(SubtitleFields):
    """What a client may ask of a transcription, in a form or in JSON; unknown fields are ignored."""

    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    language: str = Field("", description="Code or English name; absent or `auto`: detect it.")
    languages: tuple[str, ...] = Field(
        (), description="Languages to choose from where `language` is absent; the reply names the choice."
    )
    prompt: str = Field("", description="Text that the audio, or each channel, continues.")
    keywords: tuple[str, ...] = Field(
        (), description="Words and phrases to expect, for the whole file: names, terms, a way of writing."
    )
    hotwords: tuple[str, ...] = Field((), description="Another name for `keywords`.")
    temperature: float = Field(0.0, description="0 to 1; 0 rises by itself where the text looks wrong.")
    response_format: str = Field(
        "json",
        description="json, text, srt, verbose_json, vtt or diarized_json, which takes every channel of the "
        "recording for a speaker and needs two to eight of them.",
    )
    known_speaker_names: tuple[str, ...] = Field(
        (),
        description="With diarized_json: at most 4 names, of the channels in order; the others are A, B, ...",
    )
    known_speaker_references: tuple[str, ...] = Field((), description="Not supported: leave it out.")
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
        False, description="Send the text as Server-Sent Events while it is being made; json and text only."
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


class TranslationFields(SubtitleFields):
    """What a client may ask of a translation; unknown fields are ignored."""

    model: str = Field("", description="A name of GET /v1/models; absent: the server's default.")
    prompt: str = Field("", description="English text that the translation continues.")
    temperature: float = Field(0.0, description="0 to 1; 0 rises by itself where the text looks wrong.")
    response_format: str = Field("json", description="json, text, srt, verbose_json or vtt.")


class TranslationForm(TranslationFields):
    """POST /v1/audio/translations as multipart/form-data."""

    file: str = Field(json_schema_extra={"format": "binary"}, description="The audio, in any usual format.")


class TranslationJson(TranslationFields):
    """POST /v1/audio/translations as application/json."""

    audio: str = Field(description="The file's bytes as base64, or as a data: URL.")


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
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")


class StreamOptions(BaseModel):
    """Options of a chat stream."""

    include_usage: bool = Field(False, description="Send one more chunk, with the usage.")


class ChatFields(_Fields):
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


class ChatMessage(BaseModel):
    """The transcript as an assistant's answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Any] = []


class ChatChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop"] = "stop"


class PromptTokens(BaseModel):
    """Not counted."""

    audio_tokens: int = 0
    cached_tokens: int = 0


class ChatUsage(BaseModel):
    """The tokens that the model wrote, timestamps included; what it was given is not counted."""

    prompt_tokens: int = 0
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens = PromptTokens()


class ChatReply(BaseModel):
    """A chat completion, as OpenAI describes it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


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


class DeletedModel(BaseModel):
    """A model is gone from memory, and from the disk where the settings allow that."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


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
