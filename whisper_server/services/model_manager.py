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
from contextlib import asynccontextmanager, suppress
from typing import Generic

from whisper_server.core.errors import NoRoomForModel, ShuttingDown
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.system.allocator import return_memory
from whisper_server.core.system.process import check_threads, start_thread
from whisper_server.core.types import ModelSource
from whisper_server.services.loaded_models.entry import Entry, Lease, LoadedModel, M, ModelState, Turn
from whisper_server.services.loaded_models.eviction import Room
from whisper_server.services.loaded_models.table import HELD_BACK_S, ModelTable
from whisper_server.services.model_files.failures import as_ours

__all__ = ["Lease", "LoadedModel", "ModelManager", "ModelState"]

log = logging.getLogger(__name__)

ROOM_TIMEOUT_S = 60.0  # that a request waits for room; those that hold it may be hours of audio


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
        room_timeout_s: float = ROOM_TIMEOUT_S,
        shutdown: Shutdown | None = None,
        tidy: Callable[[], None] = return_memory,
    ) -> None:
        """Take `load`, which blocks and is called on threads of the manager, one call per model.

        So is `expect_bytes`: what a model will take in memory, 0 where that is unknown. `max_bytes` 0 means
        no limit, a negative `idle_unload_s` that idle models stay, `room_timeout_s` how long a request waits
        where models in use take all room. `tidy` is called after a model has gone.
        """
        self._load = load
        self._expect_bytes = expect_bytes
        self._room_timeout_s = room_timeout_s
        self.shutdown = shutdown or Shutdown()  # once it drains, no more models are lent
        self._table: ModelTable[M] = ModelTable(
            Room(max_models, max_bytes), idle_unload_s, shutdown=self.shutdown, tidy=tidy
        )

    def acquire(self, source: ModelSource) -> Lease[M]:
        """Return a lease on the model, loading it first where needed; blocks.

        Raises:
            NoRoomForModel: models in use have taken all room for as long as a request waits.
            ModelUnavailable: it cannot be loaded; the next call tries again.
            ShuttingDown: the manager is draining or closed.
        """
        turn = self._reserve(source)
        try:
            with suppress(TimeoutError):
                turn.granted.exception(self._room_timeout_s)
            model = self._table.entry_of(turn).answer.result()
        except BaseException:
            self._table.leave(turn)
            raise
        return Lease(model, lambda: self._table.leave(turn))

    @asynccontextmanager
    async def lease(self, source: ModelSource, *, is_background: bool = False) -> AsyncIterator[M]:
        """Lend the model to the block, waiting for room and its load without blocking the event loop.

        Where work `is_background`, its wait is none that others make room for (`is_room_wanted`).

        A cancelled wait gives its lease back and leaves the load to the others. Raises as `acquire`.
        """
        turn, model = await self._leased(source, is_background)
        try:
            yield model
        finally:
            del model  # the generator would hold it until it is collected
            self._table.leave(turn)

    def unload(self, source: ModelSource) -> bool:
        """Let the model go as soon as it is unused; the next request reloads it.

        Returns:
            Whether it was loaded or loading.
        """
        return self._table.unload(source)

    def loaded(self) -> list[ModelState]:
        """Return what is in memory or on its way, the most recently used model last."""
        return self._table.states()

    def is_room_wanted(self) -> bool:
        """Tell whether a request waits for room: work that can wait had better give its lease back."""
        return self._table.is_room_wanted()

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

    async def _leased(self, source: ModelSource, is_background: bool) -> tuple[Turn[M], M]:
        """Return a turn that has its lease, and the model.

        What a model takes is only known once it has been loaded. Where it has to go again then, the next turn
        waits until there is as much room.
        """
        turn = self._reserve(source, is_background)
        try:
            entry = await self._granted(turn)
            try:
                return turn, await self._loaded(entry)
            except NoRoomForModel:
                self._table.leave(turn)
                turn = self._reserve(source, is_background)
                return turn, await self._loaded(await self._granted(turn))
        except BaseException:
            self._table.leave(turn)
            raise

    def _reserve(self, source: ModelSource, is_background: bool = False) -> Turn[M]:
        def start_load(entry: Entry[M]) -> None:
            try:
                check_threads()
            except RuntimeError as error:
                raise as_ours(error, source.name, "load", log) from error
            start_thread(self._run_load, entry, failed=lambda error: self._fail(entry, error))

        return self._table.reserve(source, start_load, is_background=is_background)

    async def _granted(self, turn: Turn[M]) -> Entry[M]:
        """Wait for room, at most as long as a request does."""
        granted = asyncio.wrap_future(turn.granted)
        granted.add_done_callback(lambda one: one.cancelled() or one.exception())  # it may have no reader
        for timeout_s in (HELD_BACK_S, self._room_timeout_s - HELD_BACK_S):
            if not turn.granted.done() and timeout_s > 0:
                await asyncio.wait([granted], timeout=min(timeout_s, self._room_timeout_s))
                self._table.serve()  # whoever was held back for so long
        return self._table.entry_of(turn)

    async def _loaded(self, entry: Entry[M]) -> M:
        return await asyncio.wrap_future(entry.answer) if not entry.answer.done() else entry.answer.result()

    def _fail(self, entry: Entry[M], error: BaseException) -> None:
        self._table.fail(entry)
        entry.resolve(as_ours(error, entry.source.name, "load", log))

    def _run_load(self, entry: Entry[M]) -> None:
        """Load one model; its waiters get an answer whatever happens."""
        try:
            if self._table.wants_estimate(entry):
                self._table.expect(entry, self._expect_bytes(entry.source))
            self._table.wait_for_memory()
            model = self._load(entry.source)
        except BaseException as error:  # noqa: BLE001  (an answer for every failure)
            self._fail(entry, error)
            return
        refusal = self._table.keep(entry, model)
        if refusal is not None and not isinstance(refusal, ShuttingDown):
            log.warning("model %s is unloaded: %s", entry.source.name, refusal)
        entry.resolve(model if refusal is None else refusal)
