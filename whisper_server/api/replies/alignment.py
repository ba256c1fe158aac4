"""The shape of an alignment on the wire, for format json; other formats are those of transcriptions."""

from __future__ import annotations

from pydantic import BaseModel, Field

from whisper_server.api.replies.audio import Usage


class AlignedWord(BaseModel):
    """A word of the given text."""

    word: str
    start: float = Field(description="Seconds of file time.")
    end: float
    probability: float = Field(description="That the model would have written it there; 0: it was not heard.")


class AlignedSegment(BaseModel):
    """A line of the given text, or a sentence."""

    id: int
    start: float
    end: float
    text: str
    words: list[AlignedWord]


class AlignmentReply(BaseModel):
    """The given text with its times."""

    text: str
    segments: list[AlignedSegment]
    usage: Usage
