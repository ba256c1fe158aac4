"""What travels between fronts and model replicas: windows there, their texts or an error back.

Errors are values here. An exception that crosses processes needs its class's constructor, and ours take
keywords; a value says the same and cannot fail on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper_server.core.errors import EngineFailure, WhisperServerError
from whisper_server.core.types import DecodeOptions, Priority, WindowJob

if TYPE_CHECKING:
    from whisper_server.services.engines.base import EngineInfo
    from whisper_server.services.engines.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class WindowCall:
    """One window for one model; about 1 MB, or 1.5 MB where the model hears 128 bands."""

    model: str  # canonical name
    stream: str  # the request's: its windows share one claim on each replica
    priority: Priority
    is_live: bool
    job: WindowJob
    options: DecodeOptions


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a front has to know of a model that is loaded elsewhere."""

    info: EngineInfo
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Failure:
    """One of our errors, on its way to the process that raises it."""

    kind: str  # the name of its class
    message: str
    param: str | None
    code: str | None
    retry_after_s: int | None

    @classmethod
    def of(cls, error: WhisperServerError) -> Failure:
        """Take everything that a client may hear of an error."""
        return cls(type(error).__name__, error.message, error.param, error.code, error.retry_after_s)

    def error(self) -> WhisperServerError:
        """Return the error again; one that this version does not know is an `EngineFailure`."""
        kind = _kinds(WhisperServerError).get(self.kind, EngineFailure)
        error = kind.__new__(kind)  # constructors differ: what they would make of it is known already
        WhisperServerError.__init__(error, self.message, param=self.param, code=self.code)
        error.retry_after_s = self.retry_after_s
        return error


def _kinds(root: type[WhisperServerError]) -> dict[str, type[WhisperServerError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _kinds(child)
    return found
