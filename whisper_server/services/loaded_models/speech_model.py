"""What the pipeline needs of a model that is there: in this process, or on machines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from whisper_server.core.types import Priority
from whisper_server.services.loaded_models.entry import LoadedModel
from whisper_server.services.scheduling.remembered import DecodeStream

if TYPE_CHECKING:
    from whisper_server.services.engines.base import EngineInfo
    from whisper_server.services.engines.tokenizer import Tokenizer


class Vocabulary(Protocol):
    """What is known of a model without its weights."""

    @property
    def info(self) -> EngineInfo:
        """What was loaded."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own vocabulary."""
        ...


class WindowStream(DecodeStream, Protocol):
    """The windows of one request on their way to a device; a context manager, for the event loop."""

    def close(self) -> None:
        """Cancel every window that is not answered yet."""
        ...

    def __enter__(self) -> WindowStream: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StreamSource(Protocol):
    """What gives each request its stream."""

    def open_stream(self, priority: Priority = "normal", *, is_live: bool = False) -> WindowStream:
        """Open a stream for one request; a live one has begun before its first window.

        Raises:
            ShuttingDown: no new work is taken.
        """
        ...


class SpeechModel(LoadedModel, Protocol):
    """A model that is lent to requests."""

    @property
    def engine(self) -> Vocabulary:
        """What it is, and how tokens are written."""
        ...

    @property
    def scheduler(self) -> StreamSource:
        """What takes windows."""
        ...


def notes_of(info: EngineInfo) -> dict[str, Any]:
    """Return what /health and /v1/models say of what runs a model."""
    return {
        "engine": info.engine,
        "device": info.device,
        "compute_type": info.compute_type,
        "max_batch": info.max_batch,
        "workers": info.workers,
        "weights_bytes": info.memory_bytes,
        "working_bytes": info.working_bytes,
        "optimizations": list(info.notes),
    }
