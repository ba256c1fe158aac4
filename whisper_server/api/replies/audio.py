"""The shapes of replies about audio on the wire; they make the OpenAPI document right."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, Field

_LANGUAGES = "What was heard, empty for silence; where `languages` was sent, and always for gpt-transcribe."


class TokenLogprob(BaseModel):
    """How sure the model is of one token."""

    token: str = Field(
        description="Its text. A character that takes several tokens is the last one's; others may be empty."
    )
    logprob: float
    bytes: list[int] = Field(description="Its bytes in UTF-8.")


class LanguageCode(BaseModel):
    """A language that was heard."""

    code: str


class Usage(BaseModel):
    """The length of the audio in whole seconds."""

    type: Literal["duration"]
    seconds: int


class JsonReply(BaseModel):
    """The reply to a JSON request for response_format json."""

    text: str
    processing_time: float = Field(description="Seconds that the request took.")
    model: str = Field(description="The name that was asked for.")
    format: str = Field(description="What the bytes were: m4a, mp3, wav, ...")
    languages: list[LanguageCode] | None = Field(None, description=_LANGUAGES)
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include=logprobs.")


class PlainReply(BaseModel):
    """The reply to a form for response_format json."""

    text: str
    usage: Usage
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")
    languages: list[LanguageCode] | None = Field(None, description=_LANGUAGES)


class SegmentObject(BaseModel):
    """A phrase, with what the decoder thought of it; clients check that all ten fields are there."""

    id: int
    speaker: str | None = Field(None, description="Beyond OpenAI: who says it, with `diarize`.")
    seek: int = Field(description="Where its window starts, in hundredths of a second.")
    start: float = Field(description="Seconds from the start of the file.")
    end: float
    text: str = Field(description="With the space that leads it.")
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    language: str = Field(
        description="Beyond OpenAI: the code of what is spoken, also where the text is a translation."
    )


class WordObject(BaseModel):
    """A word and when it is spoken."""

    word: str
    start: float = Field(description="Seconds from the start of the file.")
    end: float
    speaker: str | None = Field(None, description="Beyond OpenAI: who says it, with `diarize`.")


class VerboseReply(BaseModel):
    """The reply for response_format verbose_json, to forms and to JSON."""

    task: Literal["transcribe", "translate"]
    language: str = Field(description="The English name of what most of the text is in: english, french, ...")
    language_probability: float | None = Field(
        None,
        description="Beyond OpenAI: of `language`, by the sound; 1 where the request gave it. "
        "Absent for silence and in translations, whose text is English.",
    )
    duration: float = Field(description="Seconds.")
    text: str
    segments: list[SegmentObject] | None = Field(None, description="Absent if only words were asked for.")
    words: list[WordObject] | None = Field(None, description="With timestamp_granularities word.")
    usage: Usage | None = None


FormReply: TypeAlias = VerboseReply | PlainReply


class DiarizedSegment(BaseModel):
    """A phrase and who says it."""

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str = Field(
        description="A name of `known_speaker_names`, or A, B, ...; empty unless speakers are told apart."
    )
    language: str = Field(description="Beyond OpenAI: the code.")


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
    language: str = Field(description="Beyond OpenAI: the code of the phrase's language.")
    segment_id: str | None = Field(None, description="Of the SegmentEvent that has its times.")
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")


class SegmentEvent(DiarizedSegment):
    """One event of a stream of verbose_json or diarized_json: when a phrase is spoken, and by whom."""

    words: list[WordObject] | None = Field(None, description="With timestamp_granularities word.")


class DoneEvent(BaseModel):
    """The last event of a stream: the whole text, which is all deltas joined."""

    type: Literal["transcript.text.done"]
    text: str
    languages: list[LanguageCode] | None = Field(None, description=_LANGUAGES)
    logprobs: list[TokenLogprob] | None = Field(None, description="Only with include[]=logprobs.")


class AudioTrack(BaseModel):
    """One of the audio tracks."""

    index: int = Field(description="What `audio_track` takes: counted from 0 over the audio tracks.")
    codec: str | None = Field(description="null where it cannot be decoded here.")
    language: str | None = Field(description="As the file writes it: eng, de, en-US, ...")
    default: bool = Field(description="Whether the file calls it a default track.")
    channels: int
    sample_rate_hz: int
    start_s: float = Field(description="Seconds after the start of the file, as its header has it.")


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
    speech_s: float = Field(description="Seconds of speech.")
    audio_track: int = Field(description="The track that all this is about: the one that would be heard.")
    tracks: list[AudioTrack] = Field(description="All audio tracks.")
