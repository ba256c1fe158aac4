"""Which models are in memory: at most `max_models`, the least recently used one goes first.

Theory of operation. An entry is in the table (loading or ready, findable by name) or it is leaving
(unloaded or evicted, no longer findable). Whoever wants a model first reserves it, which counts as a
lease at once, also while the model still loads: so nothing that somebody waits for can be evicted. An
entry leaves memory when it is leaving and its last lease is gone. One lock guards the tables and is
never held while a model loads, closes, or is waited for.

Threads: every load and every close runs on a daemon thread of its own (at most two per entry, and
entries are bounded), so a download that hangs can neither block a caller's thread nor the exit of
the process. It must not know what a model is, beyond `LoadedModel`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic

from whisper_server.core.errors import ModelUnavailable, ShuttingDown, Unavailable, WhisperServerError
from whisper_server.core.process import THREAD_PREFIX
from whisper_server.services.catalog import Catalog, ModelSource
from whisper_server.services.model_entry import Entry, Lease, LoadedModel, M, ModelState

__all__ = ["Lease", "LoadedModel", "ModelManager", "ModelState"]

log = logging.getLogger(__name__)

SHUTTING_DOWN = "The server is shutting down; try again later."


class ModelManager(Generic[M]):
    """Loads models once, lends them, and lets the least recently used one go. Thread-safe."""

    def __init__(self, catalog: Catalog, load: Callable[[ModelSource], M], max_models: int) -> None:
        """Take `load`, which blocks and is called on threads of the manager, one call per model."""
        self._catalog = catalog
        self._load = load
        self._max_models = max_models
        self._changed = threading.Condition()
        self._table: OrderedDict[str, Entry[M]] = OrderedDict()  # by canonical name; used last is last
        self._leaving: set[Entry[M]] = set()
        self.is_draining = False  # takes no new users; read by anyone, set under the lock

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
            entry = self._table.get(source.name)
            if entry is not None:
                self._retire(entry)
        return entry is not None

    def loaded(self) -> list[ModelState]:
        """Return what is in memory or on its way, the most recently used model last."""
        with self._changed:
            return [entry.state() for entry in (*self._leaving, *self._table.values())]

    def check_open(self) -> None:
        """Check that models are lent.

        Raises:
            ShuttingDown: no longer.
        """
        if self.is_draining:
            raise ShuttingDown(SHUTTING_DOWN)

    def drain(self) -> None:
        """Lend no more, and let each model refuse what has not begun. Idempotent; does not block.

        Who waits for a load gets `ShuttingDown` at once. Leases go on.
        """
        with self._changed:
            self.is_draining = True
            entries = [*self._leaving, *self._table.values()]
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
            for entry in list(self._table.values()):
                self._retire(entry)
            if not self._changed.wait_for(lambda: all(entry.loading for entry in self._leaving), timeout):
                names = ", ".join(entry.source.name for entry in self._leaving if not entry.loading)
                log.warning("models still in use at shutdown: %s", names)

    def _reserve(self, name: str) -> Entry[M]:
        """Return the entry of `name` with one more lease on it, starting its load where it is new."""
        source = self._catalog.resolve(name)
        with self._changed:
            self.check_open()
            entry = self._table.get(source.name)
            if entry is not None and entry.model is not None and entry.model.is_broken:
                self._retire(entry)
                entry = None
            if entry is None:
                self._make_room(source.name)
                entry = Entry(source)
                _start(self._run_load, entry)  # first: where no thread can start, no entry stays behind
                self._table[source.name] = entry
            entry.leases += 1
            self._table.move_to_end(source.name)
            return entry

    def _make_room(self, name: str) -> None:
        """Evict until one more model fits; what is leaving but still in use takes up its place."""
        in_use = sum(not entry.is_unused for entry in self._leaving)
        while len(self._table) + in_use >= self._max_models:
            unused = (entry for entry in self._table.values() if entry.is_unused)
            victim = next(unused, None)
            if victim is None:
                raise Unavailable(
                    f"The model {name!r} cannot be loaded now: all {self._max_models} places are taken by"
                    " models in use. Try again later, or raise WHISPER_MAX_MODELS."
                )
            self._retire(victim)

    def _retire(self, entry: Entry[M]) -> None:
        """Take the entry out of the table; close its model once nobody holds it. Needs the lock."""
        del self._table[entry.source.name]
        entry.leaving = True
        self._leaving.add(entry)
        self._close_if_unused(entry)

    def _release(self, entry: Entry[M]) -> None:
        with self._changed:
            entry.leases -= 1
            if self._table.get(entry.source.name) is entry:
                self._table.move_to_end(entry.source.name)
            self._close_if_unused(entry)

    def _close_if_unused(self, entry: Entry[M]) -> None:
        """Start the end of a leaving entry that has neither users nor a load; needs the lock."""
        if entry.leaving and entry.is_unused and entry.model is not None:
            model, entry.model = entry.model, None
            _start(self._run_close, entry, model)

    def _run_close(self, entry: Entry[M], model: M) -> None:
        log.info("unloading model %s", entry.source.name)
        try:
            model.close()
        except Exception:
            log.exception("closing model %s failed", entry.source.name)
        finally:
            self._forget(entry)

    def _run_load(self, entry: Entry[M]) -> None:
        """Load one model and answer everybody who waits for it."""
        try:
            self._wait_for_memory()
            model = self._load(entry.source)
        except BaseException as error:  # noqa: BLE001  (whatever happened, the waiters get an answer)
            self._forget(entry)
            entry.resolve(_as_ours(entry.source.name, error))
            return
        with self._changed:
            entry.loading = False
            entry.model = model
            is_wanted = not self.is_draining
            self._close_if_unused(entry)
        entry.resolve(model if is_wanted else ShuttingDown(SHUTTING_DOWN))

    def _wait_for_memory(self) -> None:
        """Wait until the models that are on their way out are gone."""
        with self._changed:
            self._changed.wait_for(lambda: not any(entry.is_unused for entry in self._leaving))
            self.check_open()

    def _forget(self, entry: Entry[M]) -> None:
        with self._changed:
            entry.loading = False
            entry.leaving = True
            self._leaving.discard(entry)
            if self._table.get(entry.source.name) is entry:
                del self._table[entry.source.name]
            self._changed.notify_all()


def _as_ours(name: str, error: BaseException) -> WhisperServerError:
    """Log why a load failed, and return what the waiters get."""
    if isinstance(error, WhisperServerError):
        log.warning("model %s is not loaded: %s", name, error)
        return error
    log.error("loading model %s failed", name, exc_info=error)
    ours = ModelUnavailable(
        f"The model {name!r} cannot be loaded ({type(error).__name__}); the server's log says more."
    )
    ours.__cause__ = error
    return ours


def _start(target: Callable[..., None], *args: object) -> None:
    name = f"{THREAD_PREFIX}{target.__name__.strip('_')}"
    threading.Thread(target=target, args=args, name=name, daemon=True).start()
