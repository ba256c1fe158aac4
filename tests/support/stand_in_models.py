"""Models that hold no memory, a loader that a test holds up, and what a manager has of them."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from whisper_server.core.config import Settings
from whisper_server.core.types import ModelSource
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.model_manager import ModelManager

LIMIT_S = 30.0  # no test waits for it; it only ends a hang
NAMES = "abcde"


class Model:
    """A model that knows whether it is closed, and complains where that happens twice."""

    memory_bytes = 7
    engine_notes: ClassVar[dict[str, Any]] = {"engine": "none"}
    is_degraded = False
    is_broken = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = threading.Event()
        self.drains = 0

    def drain(self) -> None:
        self.drains += 1

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


class Loader:
    """Counts loads; `gate` holds them up, `error` makes them fail."""

    def __init__(self) -> None:
        self.made: list[Model] = []
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def __call__(self, source: ModelSource) -> Model:
        with self._lock:
            self.calls.append(source.name)
        self.begun.release()
        assert self.gate.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        model = Model(source.name)
        with self._lock:
            self.made.append(model)
        return model

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=LIMIT_S)

    @property
    def alive(self) -> list[str]:
        with self._lock:
            return [model.name for model in self.made if not model.closed.is_set()]


def make_catalog() -> Catalog:
    models = ",".join(f"{name}=someone/{name}" for name in NAMES) + ",alias=someone/a"
    return Catalog(Settings(_env_file=None, model="whisper-1", models=models))


CATALOG = make_catalog()


def named(name: str) -> ModelSource:
    """What a request's name becomes before it comes to the manager."""
    return CATALOG.resolve(name)


def use_each(manager: ModelManager[Model], names: str) -> None:
    for name in names:
        manager.acquire(named(name)).release()


def states(manager: ModelManager[Model]) -> dict[str, tuple[str, int]]:
    return {one.name: (one.state, one.leases) for one in manager.loaded()}
