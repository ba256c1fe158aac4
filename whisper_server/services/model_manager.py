"""Which models are in memory: as many as there is room for; the least recently used one goes first.

A request first reserves its model in the table of `loaded_models`, which owns the leases, the room and the
order in which models go; a new entry is loaded then, and all that wait for it get the same answer.

Threads: every load and every close runs on a daemon thread of its own (at most two per entry, and
entries are bounded), so a download that hangs can neither block a caller's thread nor the exit of
the process. It must not know what a model is, beyond `LoadedModel`, nor what names mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic

from whisper_server.core.errors import ShuttingDown
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.system.allocator import return_memory
from whisper_server.core.system.process import start_thread
from whisper_server.core.types import ModelSource
from whisper_server.services.loaded_models.entry import Entry, Lease, LoadedModel, M, ModelState
from whisper_server.services.loaded_models.eviction import Room
from whisper_server.services.loaded_models.table import ModelTable
from whisper_server.services.model_files.failures import as_ours

__all__ = ["Lease", "LoadedModel", "ModelManager", "ModelState"]

log = logging.getLogger(__name__)


class ModelManager(Generic[M]):
    """Loads models once, lends them, and lets the least recently used one go. Thread-safe."""

    def __init__(
        self,
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

        So is `expect_bytes`: what a model will take in memory, 0 where that is unknown. `max_bytes` 0 means
        no limit, a negative `idle_unload_s` that idle models stay. `tidy` is called after a model has gone.
        """
        self._load = load
        self._expect_bytes = expect_bytes
        self.shutdown = shutdown or Shutdown()  # once it drains, no more models are lent
        self._table: ModelTable[M] = ModelTable(
            Room(max_models, max_bytes), idle_unload_s, shutdown=self.shutdown, tidy=tidy
        )

    def acquire(self, source: ModelSource) -> Lease[M]:
        """Return a lease on the model, loading it first where needed; blocks.

        Raises:
            Unavailable: every place is taken by a model in use.
            ModelUnavailable: it cannot be loaded; the next call tries again.
            ShuttingDown: the manager is draining or closed.
        """
        entry = self._reserve(source)
        try:
            model = entry.answer.result()
        except BaseException:
            self._table.release(entry)
            raise
        return Lease(model, lambda: self._table.release(entry))

    @asynccontextmanager
    async def lease(self, source: ModelSource) -> AsyncIterator[M]:
        """Lend the model to the block, waiting for its load without blocking the event loop.

        A cancelled wait gives its lease back and leaves the load to the others. Raises as `acquire`.
        """
        entry = self._reserve(source)
        try:
            if not entry.answer.done():
                await asyncio.wrap_future(entry.answer)
            yield entry.answer.result()
        finally:
            self._table.release(entry)

    def unload(self, source: ModelSource) -> bool:
        """Let the model go as soon as it is unused; the next request reloads it.

        Returns:
            Whether it was loaded or loading.
        """
        return self._table.unload(source)

    def loaded(self) -> list[ModelState]:
        """Return what is in memory or on its way, the most recently used model last."""
        return self._table.states()

    def drain(self) -> None:
        """Lend no more, and let each model refuse what has not begun. Idempotent; does not block.

        Those that wait for a load get `ShuttingDown` at once. Leases go on.
        """
        self._table.drain()

    def close(self, timeout: float) -> None:
        """Let every model go; wait at most `timeout` seconds for those in use. Idempotent.

        Drains first; loads are not waited for. A model still in use afterwards is closed by its last user.
        """
        self._table.close(timeout)

    def _reserve(self, source: ModelSource) -> Entry[M]:
        return self._table.reserve(source, lambda entry: start_thread(self._run_load, entry))

    def _run_load(self, entry: Entry[M]) -> None:
        """Load one model; its waiters get an answer whatever happens."""
        try:
            if self._table.wants_estimate(entry):
                self._table.expect(entry, self._expect_bytes(entry.source))
            self._table.wait_for_memory()
            model = self._load(entry.source)
        except BaseException as error:  # noqa: BLE001  (an answer for every failure)
            self._table.fail(entry)
            entry.resolve(as_ours(error, entry.source.name, "load", log))
            return
        refusal = self._table.keep(entry, model)
        if refusal is not None and not isinstance(refusal, ShuttingDown):
            log.warning("model %s is unloaded: %s", entry.source.name, refusal)
        entry.resolve(model if refusal is None else refusal)
