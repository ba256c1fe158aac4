"""The shape of who speaks when on the wire."""

from __future__ import annotations

from pydantic import BaseModel, Field

from whisper_server.api.replies.audio import Usage


class DiarizationTurn(BaseModel):
    """A stretch of one speaker; stretches of two speakers may overlap."""

    start: float = Field(description="Seconds from the start of the file.")
    end: float
    speaker: str = Field(description="A name of `known_speaker_names`, or A, B, ... as they begin to speak.")


class DiarizationReply(BaseModel):
    """Who speaks when."""

    duration: float = Field(description="Seconds.")
    speakers: list[str] = Field(description="In the order in which they begin to speak.")
    segments: list[DiarizationTurn]
    usage: Usage
