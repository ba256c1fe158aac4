"""The field `chunking_strategy`: what clients write -> VadOptions."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from whisper_server.core.types import VadOptions

_STRATEGIES = "Use auto, or an object of type server_vad."


class ServerVad(BaseModel):
    """How to find speech; what is left out keeps the server's default, which is made for files."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    type: Literal["server_vad"]
    threshold: float | None = Field(None, ge=0, le=1, description="Probability from which a sound is speech.")
    prefix_padding_ms: int | None = Field(None, ge=0, le=10_000, description="Kept around speech.")
    silence_duration_ms: int | None = Field(None, ge=0, le=10_000, description="A pause that splits speech.")

    def options(self) -> VadOptions:
        """Return what was asked for, and the defaults for the rest."""
        asked = {
            "threshold": self.threshold,
            "speech_pad_ms": self.prefix_padding_ms,
            "min_silence_ms": self.silence_duration_ms,
        }
        return VadOptions(**{name: value for name, value in asked.items() if value is not None})


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
