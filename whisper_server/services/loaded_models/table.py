"""The models that are in memory, on their way in, or on their way out; who holds them, and who goes.

Theory of operation. An entry is in the table (loading or ready, findable by name) or it is leaving
(unloaded or evicted, no longer findable). A lease counts from the moment it is reserved, also while the
model still loads: so nothing that somebody waits for can be evicted. An entry leaves memory when it is
leaving and its last lease is gone; its model is closed on a thread of its own, so that a library that
hangs holds up nobody. Every method needs the lock of `changed`, which is never held while a model loads,
closes, or is waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic

from whisper_server.core.system.allocator import return_memory
from whisper_server.core.system.process import start_thread
from whisper_server.services.loaded_models.entry import Entry, M
from whisper_server.services.loaded_models.eviction import Occupant, Room, victims
from whisper_server.services.loaded_models.idle import IdleWatch

log = logging.getLogger(__name__)


class ModelTable(Generic[M]):
    """Entries by canonical name, those that leave, and the room for all of them."""

    def __init__(self, room: Room, idle_unload_s: float, tidy: Callable[[], None] = return_memory) -> None:
        """Be empty; a negative `idle_unload_s` means that idle models stay. `tidy` follows each close."""
        self.changed = threading.Condition()
        self._room = room
        self._tidy = tidy
        self._idle = IdleWatch(idle_unload_s, self.changed, self.expire)
        self._entries: OrderedDict[str, Entry[M]] = OrderedDict()  # used last is last
        self._leaving: set[Entry[M]] = set()

    def find(self, name: str) -> Entry[M] | None:
        """Return what loads or is ready under this canonical name."""
        return self._entries.get(name)

    def add(self, entry: Entry[M]) -> None:
        """Make a new entry findable."""
        self._entries[entry.source.name] = entry

    def everything(self) -> list[Entry[M]]:
        """Return what leaves, and then what is findable, the most recently used last."""
        return [*self._leaving, *self._entries.values()]

    def hold(self, entry: Entry[M]) -> None:
        """Count one more lease."""
        entry.leases += 1
        entry.idle_since = None
        self._entries.move_to_end(entry.source.name)

    def release(self, entry: Entry[M]) -> None:
        """Count one lease less."""
        entry.leases -= 1
        if self._entries.get(entry.source.name) is entry:
            self._entries.move_to_end(entry.source.name)
        self.settle(entry)

    def settle(self, entry: Entry[M]) -> None:
        """Start the clock of an entry that nobody needs now, or its end where it is leaving."""
        if entry.is_unused and not entry.leaving:
            entry.idle_since = time.monotonic()
            self._idle.is_idle_now()
        self._close_if_unused(entry)

    def make_room(self, name: str, size_bytes: int, newcomer: Entry[M] | None = None) -> None:
        """Evict until the model fits. What is leaving but still in use takes up its place.

        Raises:
            ModelTooLarge: it is larger than all the room there is.
            Unavailable: what is in use leaves too little room; then everything stays.
        """
        self._room.check_size(name, size_bytes)
        others = [entry for entry in self._leaving if not entry.is_unused and entry is not newcomer]
        others += [entry for entry in self._entries.values() if entry is not newcomer]
        there = [
            Occupant(entry, entry.memory_bytes, entry.is_unused and not entry.leaving) for entry in others
        ]
        going = victims(there, self._room, size_bytes)
        if going is None:
            raise self._room.refusal(name)
        for entry in going:
            self.retire(entry)

    def expire(self, until: float) -> float | None:
        """Unload what has been idle since `until`; return since when the next one is."""
        idle = [(one.idle_since, one) for one in self._entries.values() if one.idle_since is not None]
        for since, entry in idle:
            if since <= until:
                log.info("model %s is idle", entry.source.name)
                self.retire(entry)
        return min((since for since, entry in idle if not entry.leaving), default=None)

    def retire(self, entry: Entry[M]) -> None:
        """Let nobody find the entry any more; close its model once nobody holds it."""
        del self._entries[entry.source.name]
        entry.leaving = True
        self._leaving.add(entry)
        self._close_if_unused(entry)

    def forget(self, entry: Entry[M]) -> None:
        """Drop an entry whose model is closed, or was never loaded."""
        entry.loading = False
        entry.leaving = True
        self._leaving.discard(entry)
        if self._entries.get(entry.source.name) is entry:
            del self._entries[entry.source.name]
        self.changed.notify_all()

    def wait_for_memory(self) -> None:
        """Wait until the models that are on their way out are gone."""
        self.changed.wait_for(lambda: not any(entry.is_unused for entry in self._leaving))

    def close(self, timeout: float) -> None:
        """Retire everything; wait at most `timeout` seconds for what is in use, and not for loads."""
        self._idle.close()
        for entry in list(self._entries.values()):
            self.retire(entry)
        if not self.changed.wait_for(lambda: all(entry.loading for entry in self._leaving), timeout):
            names = ", ".join(entry.source.name for entry in self._leaving if not entry.loading)
            log.warning("models still in use at shutdown: %s", names)

    def _close_if_unused(self, entry: Entry[M]) -> None:
        """Start the end of a leaving entry that has neither users nor a load."""
        if entry.leaving and entry.is_unused and entry.model is not None:
            last = [entry.model]  # in a list, or the thread would hold the model until it ends
            entry.model = None
            start_thread(self._run_close, entry, last)

    def _run_close(self, entry: Entry[M], last: list[M]) -> None:
        log.info("unloading model %s", entry.source.name)
        try:
            last.pop().close()
        except Exception:
            log.exception("closing model %s failed", entry.source.name)
        finally:
            entry.answer = Future()  # nobody waits for it, and it holds the model
            self._tidy()  # before the next load, which waits for this
            with self.changed:
                self.forget(entry)
