"""The shapes of whisper-asr-webservice's replies that are JSON."""

from __future__ import annotations

from pydantic import BaseModel, Field


class StatusReply(BaseModel):
    """That it is there."""

    version: str


class DetectedLanguage(BaseModel):
    """The language that is spoken."""

    detected_language: str = Field(description="English name, lower case.")
    language_code: str
    confidence: float = Field(description="0 to 1; 0 where nothing is said.")
