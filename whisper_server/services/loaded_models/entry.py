"""One model of the manager: its entry in the table, the lease on it, and what /health shows of it.

Owns no lock over the table: `table` guards every field of an entry with its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeVar

from whisper_server.core.errors import WhisperServerError
from whisper_server.core.types import ModelSource


class LoadedModel(Protocol):
    """What the manager needs of a model."""

    @property
    def memory_bytes(self) -> int:
        """Memory that it takes at the busiest moment."""
        ...

    @property
    def engine_notes(self) -> dict[str, Any]:
        """What runs it and how."""
        ...

    @property
    def is_degraded(self) -> bool:
        """Whether it works again in a moment: what it lost is being replaced."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether only another load helps."""
        ...

    def drain(self) -> None:
        """Refuse requests that have not begun, now and from now on; must not block."""
        ...

    def close(self) -> None:
        """Give the memory back; blocks, is called once, and the model is not used afterwards."""
        ...


M = TypeVar("M", bound=LoadedModel)


State = Literal["loading", "ready", "degraded", "unloading"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model for /health."""

    name: str  # canonical
    state: State
    leases: int  # users and waiters
    memory_bytes: int  # 0 while it loads
    engine: dict[str, Any] | None = None  # what runs it and how; None while it loads


@dataclass(eq=False, slots=True)
class Entry(Generic[M]):
    """A model that is loading, ready, or leaving."""

    source: ModelSource
    answer: Future[M] = field(default_factory=Future)  # for all that wait; answered once
    model: M | None = None
    leases: int = 0
    leaving: bool = False
    loading: bool = True
    expected_bytes: int = 0  # what it will take in memory, as far as is known before it is there
    idle_since: float | None = None  # on the clock of the table; None while it is used

    def __post_init__(self) -> None:
        # Running futures cannot be cancelled: a waiter that is cancelled must not end the others' wait.
        self.answer.set_running_or_notify_cancel()

    @property
    def is_unused(self) -> bool:
        """Whether it has no lease, no waiter and no load; where it is leaving, it is being closed."""
        return self.leases == 0 and not self.loading

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, or is expected to."""
        return self.model.memory_bytes if self.model is not None else self.expected_bytes

    def state(self) -> ModelState:
        """Return what /health shows."""
        state: State = "loading" if self.loading else "ready"
        if self.model is not None and (self.model.is_degraded or self.model.is_broken):
            state = "degraded"
        memory_bytes = self.model.memory_bytes if self.model is not None else 0
        engine = self.model.engine_notes if self.model is not None else None
        shown: State = "unloading" if self.leaving else state
        return ModelState(self.source.name, shown, self.leases, memory_bytes, engine)

    def resolve(self, outcome: M | WhisperServerError) -> None:
        """Answer all that wait; a second answer (load and shutdown may race) is dropped."""
        with suppress(InvalidStateError):
            if isinstance(outcome, WhisperServerError):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)


class Turn(Generic[M]):
    """A request for a model, from when it waits for room until its lease ends."""

    def __init__(
        self, source: ModelSource, start_load: Callable[[Entry[M]], None], is_background: bool = False
    ) -> None:
        self.source = source
        self.is_background = is_background  # nobody makes room for it before its time
        self.start_load = start_load  # for a new entry; must not block
        self.waits_since: float | None = None  # on the clock of the table; None: no room was looked for yet
        self.is_over = False  # its lease was given back
        self.granted: Future[Entry[M]] = Future()  # answered once, with one more lease on the entry
        self.granted.set_running_or_notify_cancel()  # see `Entry`


class Lease(Generic[M]):
    """The right to use a model until released; a context manager."""

    def __init__(self, model: M, release: Callable[[], None]) -> None:
        self.model = model
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    def release(self) -> None:
        """Give the right back; a second time does nothing."""
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Lease[M]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
