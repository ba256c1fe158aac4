"""Which models are in memory: as many as there is room for; the least recently used one goes first.

Whoever wants a model first reserves it in the `model_table`, which knows who holds what and who goes; a new
entry is loaded then, and everybody who waits for it gets the same answer.

Room is made three times: for one more place when a model is reserved; for the bytes that it is expected to
take before it loads, on its own thread, because that needs the disk; and for those that it takes, once that
is measured. A model that does not fit then goes again, and is refused without a load from then on.

Threads: every load and every close runs on a daemon thread of its own (at most two per entry, and
entries are bounded), so a download that hangs can neither block a caller's thread nor the exit of
the process. It must not know what a model is, beyond `LoadedModel`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic

from whisper_server.core.errors import ShuttingDown, Unavailable, WhisperServerError
from whisper_server.core.shutdown import SHUTTING_DOWN, Shutdown
from whisper_server.core.system.allocator import return_memory
from whisper_server.core.system.process import start_thread
from whisper_server.services.loaded_models.entry import Entry, Lease, LoadedModel, M, ModelState
from whisper_server.services.loaded_models.eviction import Room
from whisper_server.services.loaded_models.table import ModelTable
from whisper_server.services.model_files.catalog import Catalog, ModelSource
from whisper_server.services.model_files.failures import as_ours

__all__ = ["Lease", "LoadedModel", "ModelManager", "ModelState"]

log = logging.getLogger(__name__)


class ModelManager(Generic[M]):
    """Loads models once, lends them, and lets the least recently used one go. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        load: Callable[[ModelSource], M],
        max_models: int,
        *,
        max_bytes: int = 0,
        expect_bytes: Callable[[ModelSource], int] = lambda _: 0,
        idle_unload_s: float = -1.0,
        shutdown: Shutdown | None = None,
        tidy: Callable[[], None] = return_memory,
    ) -> None:
        """Take `load`, which blocks and is called on threads of the manager, one call per model.

        So is `expect_bytes`: what a model will take in memory, 0 where nobody knows. `max_bytes` 0 means no
        limit, a negative `idle_unload_s` that idle models stay. `tidy` is called after a model has gone.
        """
        self._catalog = catalog
        self._load = load
        self._expect_bytes = expect_bytes
        self._room = Room(max_models, max_bytes)
        self._measured_bytes: dict[str, int] = {}  # by canonical name; of models that were loaded once
        self._table: ModelTable[M] = ModelTable(self._room, idle_unload_s, tidy)
        self._changed = self._table.changed  # guards the sizes too
        self.shutdown = shutdown or Shutdown()  # once it drains, no more models are lent

    def acquire(self, name: str) -> Lease[M]:
        """Return a lease on the model, loading it first where needed; blocks.

        Raises:
            ModelNotFound: nobody configured the name.
            Unavailable: every place is taken by a model in use.
            ModelUnavailable: it cannot be loaded; the next call tries again.
            ShuttingDown: the manager is draining or closed.
        """
        entry = self._reserve(name)
        try:
            model = entry.answer.result()
        except BaseException:
            self._release(entry)
            raise
        return Lease(model, lambda: self._release(entry))

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[M]:
        """Lend the model to the block, waiting for its load without blocking the event loop.

        A cancelled wait gives its place back and leaves the load to the others. Raises as `acquire`.
        """
        entry = self._reserve(name)
        try:
            if not entry.answer.done():
                await asyncio.wrap_future(entry.answer)
            yield entry.answer.result()
        finally:
            self._release(entry)

    def preload(self, names: Iterable[str]) -> None:
        """Load these models one after the other; blocks. Raises as `acquire`, at the first failure."""
        for name in names:
            self.acquire(name).release()

    def unload(self, name: str) -> bool:
        """Let the model go as soon as nobody uses it; the next request loads it anew.

        Returns:
            Whether it was loaded or loading.

        Raises:
            ModelNotFound: nobody configured the name.
        """
        source = self._catalog.resolve(name)
        with self._changed:
            entry = self._table.find(source.name)
            if entry is not None:
                self._table.retire(entry)
        return entry is not None

    def loaded(self) -> list[ModelState]:
        """Return what is in memory or on its way, the most recently used model last."""
        with self._changed:
            return [entry.state() for entry in self._table.everything()]

    def drain(self) -> None:
        """Lend no more, and let each model refuse what has not begun. Idempotent; does not block.

        Who waits for a load gets `ShuttingDown` at once. Leases go on.
        """
        self.shutdown.drain()
        with self._changed:
            entries = self._table.everything()
            waited_for = [entry for entry in entries if entry.loading]
            models = [entry.model for entry in entries if entry.model is not None]
        for entry in waited_for:
            entry.resolve(ShuttingDown(SHUTTING_DOWN))
        for model in models:
            model.drain()

    def close(self, timeout: float) -> None:
        """Let every model go; wait at most `timeout` seconds for those in use. Idempotent.

        Drains first; loads are not waited for. A model still in use afterwards is closed by its last user.
        """
        self.drain()
        with self._changed:
            self._table.close(timeout)

    def _reserve(self, name: str) -> Entry[M]:
        """Return the entry of `name` with one more lease on it, starting its load where it is new."""
        source = self._catalog.resolve(name)
        with self._changed:
            self.shutdown.check_open()
            entry = self._table.find(source.name)
            if entry is not None and entry.model is not None and entry.model.is_broken:
                self._table.retire(entry)
                entry = None
            if entry is None:
                known_bytes = self._measured_bytes.get(source.name, 0)
                self._table.make_room(source.name, known_bytes)
                entry = Entry(source, expected_bytes=known_bytes)
                start_thread(self._run_load, entry)  # first: where no thread can start, no entry stays behind
                self._table.add(entry)
            self._table.hold(entry)
            return entry

    def _release(self, entry: Entry[M]) -> None:
        with self._changed:
            self._table.release(entry)

    def _run_load(self, entry: Entry[M]) -> None:
        """Load one model and answer everybody who waits for it."""
        try:
            self._make_room_for_bytes(entry)
            self._wait_for_memory()
            model = self._load(entry.source)
        except BaseException as error:  # noqa: BLE001  (whatever happened, the waiters get an answer)
            with self._changed:
                self._table.forget(entry)
            entry.resolve(as_ours(error, entry.source.name, "load", log))
            return
        with self._changed:
            self._measured_bytes[entry.source.name] = model.memory_bytes
            entry.loading = False
            entry.model = model
            outcome = self._keep(entry, model)
            self._table.settle(entry)
        entry.resolve(outcome)

    def _keep(self, entry: Entry[M], model: M) -> M | WhisperServerError:
        """Return the loaded model, or why it has to go again; needs the lock."""
        if self.shutdown.is_draining:
            return ShuttingDown(SHUTTING_DOWN)
        try:
            self._table.make_room(entry.source.name, model.memory_bytes, entry)
        except Unavailable as error:
            log.warning("model %s is unloaded: %s", entry.source.name, error)
            if not entry.leaving:
                self._table.retire(entry)
            return error
        return model

    def _make_room_for_bytes(self, entry: Entry[M]) -> None:
        """Evict for what the model is expected to take; reads the disk."""
        if not self._room.size_bytes or entry.expected_bytes:
            return
        expected_bytes = self._expect_bytes(entry.source)
        with self._changed:
            self._table.make_room(entry.source.name, expected_bytes, entry)
            entry.expected_bytes = expected_bytes

    def _wait_for_memory(self) -> None:
        """Wait until the models that are on their way out are gone."""
        with self._changed:
            self._table.wait_for_memory()
            self.shutdown.check_open()
