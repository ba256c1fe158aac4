"""The models that are in memory, on their way in, or on their way out; their leases, and which one goes next.

Theory of operation. An entry is in the table (loading or ready, findable by name) or it is leaving
(unloaded or evicted, no longer findable). A lease counts from the moment it is reserved, also while the
model still loads: so a model that a request waits for is never evicted. An entry leaves memory when it is
leaving and its last lease is gone; its model is closed on a thread of its own, so that a library that
hangs holds up no caller.

Who finds no room waits in turn. While the first of those that wait is new, no model gets further leases: the
one whose last lease ends goes, or three busy models in two places would keep the third out for ever. Where
that takes long, because all of them are busy for long, models that are there get leases again.

Room is made three times: for one more place when a model is reserved; for the bytes that it is expected to
take before it loads, on the thread of the load, because that needs the disk; and for those that it takes,
once that is measured. A model that does not fit then goes again, and is refused without a load from then on.

Idle unload takes one thread at most, and none where no model is idle. The time is the same for all models, so
a deadline that is set later is never earlier: the thread sleeps until the first one and needs no wake-up.

Owns the lock over all of this, the fields of its entries included. Every public method is one whole
operation; the lock is never held while a model loads, closes, or is waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic

from whisper_server.core.errors import NoRoomForModel, ShuttingDown, Unavailable
from whisper_server.core.shutdown import SHUTTING_DOWN, Shutdown
from whisper_server.core.system.allocator import return_memory
from whisper_server.core.system.process import start_thread
from whisper_server.core.types import ModelSource
from whisper_server.services.loaded_models.entry import Entry, M, ModelState, Turn
from whisper_server.services.loaded_models.eviction import Occupant, Room, victims

log = logging.getLogger(__name__)

MAX_WAITING = 1024  # requests that wait for room; WHISPER_QUEUE_REQUESTS is lower
HELD_BACK_S = 10.0  # for which a request that waits for room keeps others from models that are there


class ModelTable(Generic[M]):
    """Entries by canonical name, those that leave, and the room for all of them. Thread-safe."""

    def __init__(
        self,
        room: Room,
        idle_unload_s: float = -1.0,
        *,
        shutdown: Shutdown | None = None,
        tidy: Callable[[], None] = return_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Be empty.

        A model that has been idle for `idle_unload_s` goes; negative: never, 0: at once. `tidy` follows each
        close.
        """
        self._changed = threading.Condition()  # guards what follows, and every field of an entry
        self._room = room
        self._idle_unload_s = idle_unload_s
        self._tidy = tidy
        self._clock = clock
        self._entries: OrderedDict[str, Entry[M]] = OrderedDict()  # used last is last
        self._leaving: set[Entry[M]] = set()
        self._measured_bytes: dict[str, int] = {}  # by canonical name; of models that were loaded once
        self._waiting: deque[Turn[M]] = deque()  # for room, the first one first
        self._shutdown = shutdown or Shutdown()  # no new leases are given once it drains
        self._is_closed = False
        self._is_watching = False  # the thread of the idle unload runs

    def states(self) -> list[ModelState]:
        """Return what leaves, and then what is findable, the most recently used last."""
        with self._changed:
            return [entry.state() for entry in self._everything()]

    # --- leases -----------------------------------------------------------------------------------

    def is_room_wanted(self) -> bool:
        """Tell whether somebody waits for room who goes before work in the background."""
        with self._changed:
            return any(not turn.is_background for turn in self._waiting)

    def reserve(
        self, source: ModelSource, start_load: Callable[[Entry[M]], None], *, is_background: bool = False
    ) -> Turn[M]:
        """Ask for a lease on a model; the turn is granted at once where there is room, else later.

        A new entry is given to `start_load`, which must not block: what it starts calls `keep` or `fail`, and
        then resolves the entry. The turn fails with `ModelTooLarge` where the model is larger than all the
        room there is. Whatever becomes of it, it ends with `leave`.

        Raises:
            NoRoomForModel: too many wait already.
            ShuttingDown: no new leases are given.
        """
        with self._changed:
            self._shutdown.check_open()
            if len(self._waiting) >= MAX_WAITING:
                raise self._room.refusal(source.name)
            turn = Turn(source, start_load, is_background)
            self._waiting.append(turn)
            self._serve()
            return turn

    def serve(self) -> None:
        """Grant what can be granted by now, time having passed."""
        with self._changed:
            self._serve()

    def entry_of(self, turn: Turn[M]) -> Entry[M]:
        """Return the entry of a granted turn; raises what it failed with, `NoRoomForModel` where it waits."""
        with self._changed:
            if not turn.granted.done():
                raise self._room.refusal(turn.source.name)
            return turn.granted.result()

    def leave(self, turn: Turn[M]) -> None:
        """End a turn: take its lease back, or its place in the queue."""
        with self._changed:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.is_over and turn.granted.exception() is None:
                self._release(turn.granted.result())
            turn.is_over = True
            self._serve()

    # --- loads ------------------------------------------------------------------------------------

    def wants_estimate(self, entry: Entry[M]) -> bool:
        """Tell whether it matters what the model will take, and is not known from an earlier load."""
        return bool(self._room.size_bytes) and not entry.expected_bytes

    def expect(self, entry: Entry[M], size_bytes: int) -> None:
        """Make room for what a loading model is expected to take; raises as `reserve`."""
        with self._changed:
            self._measured_bytes.setdefault(entry.source.name, size_bytes)  # for those that wait for room
            self._make_room(entry.source.name, size_bytes, entry)
            entry.expected_bytes = size_bytes

    def wait_for_memory(self) -> None:
        """Wait until the models that are being closed are gone; blocks.

        Raises:
            ShuttingDown: no new leases are given any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: not any(entry.is_unused for entry in self._leaving))
            self._shutdown.check_open()

    def keep(self, entry: Entry[M], model: M) -> Unavailable | None:
        """Take the loaded model; return why it has to go again, where it does not fit after all."""
        with self._changed:
            self._measured_bytes[entry.source.name] = model.memory_bytes
            entry.loading = False
            entry.model = model
            refusal = self._refusal(entry, model)
            if refusal is not None and not self._shutdown.is_draining and not entry.leaving:
                self._retire(entry)
            self._settle(entry)
            self._serve()
        return refusal

    def fail(self, entry: Entry[M]) -> None:
        """Drop an entry whose load has failed."""
        with self._changed:
            self._forget(entry)
            self._serve()

    # --- the way out ------------------------------------------------------------------------------

    def unload(self, source: ModelSource) -> bool:
        """Let the model go as soon as it is unused; tell whether it was loaded or loading."""
        with self._changed:
            entry = self._entries.get(source.name)
            if entry is not None:
                self._retire(entry)
                self._serve()
        return entry is not None

    def unload_idle(self, until: float) -> float | None:
        """Unload what has been idle since `until` (the table's clock); return since when the next one is."""
        with self._changed:
            idle = [(one.idle_since, one) for one in self._entries.values() if one.idle_since is not None]
            for since, entry in idle:
                if since <= until:
                    log.info("model %s is idle", entry.source.name)
                    self._retire(entry)
            self._serve()
            return min((since for since, entry in idle if not entry.leaving), default=None)

    def drain(self) -> None:
        """Give no new leases, and let each model refuse what has not begun. Idempotent; does not block.

        Those that wait for a load get `ShuttingDown` at once. Leases go on.
        """
        self._shutdown.drain()
        with self._changed:
            entries = self._everything()
            waited_for = [entry for entry in entries if entry.loading]
            models = [entry.model for entry in entries if entry.model is not None]
            for turn in self._waiting:
                turn.granted.set_exception(ShuttingDown(SHUTTING_DOWN))
            self._waiting.clear()
        for entry in waited_for:
            entry.resolve(ShuttingDown(SHUTTING_DOWN))
        for model in models:
            model.drain()

    def close(self, timeout: float) -> None:
        """Drain, retire everything, wait at most `timeout` seconds for what is in use, and not for loads."""
        self.drain()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()  # ends the idle watch
            for entry in list(self._entries.values()):
                self._retire(entry)
            if not self._changed.wait_for(lambda: all(entry.loading for entry in self._leaving), timeout):
                names = ", ".join(entry.source.name for entry in self._leaving if not entry.loading)
                log.warning("models still in use at shutdown: %s", names)

    # --- with the lock held -----------------------------------------------------------------------

    def _serve(self) -> None:
        """Grant the turns that can be granted, in order."""
        if self._shutdown.is_draining:
            return
        blocked: list[Turn[M]] = []
        while self._waiting:
            turn = self._waiting.popleft()
            try:
                if blocked and turn.source.name not in self._entries:
                    blocked.append(turn)  # room is for those before it
                else:
                    turn.granted.set_result(self._lease(turn))
            except NoRoomForModel:
                blocked.append(turn)
                now = self._clock()
                turn.waits_since = now if turn.waits_since is None else turn.waits_since
                if now - turn.waits_since < HELD_BACK_S:
                    break
            except Exception as error:  # noqa: BLE001  (its own: too large, no thread for its load)
                turn.granted.set_exception(error)
        self._waiting.extendleft(reversed(blocked))

    def _lease(self, turn: Turn[M]) -> Entry[M]:
        """Return the entry of a turn's model with one more lease; raises `NoRoomForModel`."""
        source = turn.source
        entry = self._entries.get(source.name)
        if entry is not None and entry.model is not None and entry.model.is_broken:
            self._retire(entry)
            entry = None
        if entry is None:
            known_bytes = self._measured_bytes.get(source.name, 0)
            self._make_room(source.name, known_bytes)
            entry = Entry(source, expected_bytes=known_bytes)
            turn.start_load(entry)  # first: where no thread can start, no entry stays behind
            self._entries[source.name] = entry
        entry.leases += 1
        entry.idle_since = None
        self._entries.move_to_end(source.name)
        return entry

    def _release(self, entry: Entry[M]) -> None:
        entry.leases -= 1
        if self._entries.get(entry.source.name) is entry:
            self._entries.move_to_end(entry.source.name)
        self._settle(entry)

    def _everything(self) -> list[Entry[M]]:
        return [*self._leaving, *self._entries.values()]

    def _refusal(self, entry: Entry[M], model: M) -> Unavailable | None:
        """Make room for the loaded model; return why there is none for it."""
        try:
            self._shutdown.check_open()
            self._make_room(entry.source.name, model.memory_bytes, entry)
        except Unavailable as error:
            return error
        return None

    def _make_room(self, name: str, size_bytes: int, newcomer: Entry[M] | None = None) -> None:
        """Evict until the model fits.

        What is leaving but still in use counts with its memory. It takes no place, unless more are leaving
        than there are places: whoever unloads a model in use again and again keeps nobody out, nor has as
        many copies of it in memory as they like.

        Raises:
            ModelTooLarge: it is larger than all the room there is.
            Unavailable: what is in use leaves too little room; then everything stays.
        """
        self._room.check_size(name, size_bytes)
        leaving = [entry for entry in self._leaving if not entry.is_unused and entry is not newcomer]
        there = [
            Occupant(entry, entry.memory_bytes, may_go=False, takes_place=index >= self._room.places)
            for index, entry in enumerate(leaving)
        ]
        there += [
            Occupant(entry, entry.memory_bytes, entry.is_unused)
            for entry in self._entries.values()
            if entry is not newcomer
        ]
        going = victims(there, self._room, size_bytes)
        if going is None:
            raise self._room.refusal(name)
        for entry in going:
            self._retire(entry)

    def _retire(self, entry: Entry[M]) -> None:
        """Make the entry unfindable; close its model once it is unused."""
        del self._entries[entry.source.name]
        entry.leaving = True
        self._leaving.add(entry)
        self._close_if_unused(entry)

    def _forget(self, entry: Entry[M]) -> None:
        """Drop an entry whose model is closed, or was never loaded."""
        entry.loading = False
        entry.leaving = True
        self._leaving.discard(entry)
        if self._entries.get(entry.source.name) is entry:
            del self._entries[entry.source.name]
        self._changed.notify_all()

    def _settle(self, entry: Entry[M]) -> None:
        """Start the idle time of an entry that is unused now, or its end where it is leaving."""
        if entry.is_unused and not entry.leaving:
            entry.idle_since = self._clock()
            self._schedule_idle_unload()
        self._close_if_unused(entry)

    def _schedule_idle_unload(self) -> None:
        if self._idle_unload_s < 0 or self._is_closed:
            return
        if self._idle_unload_s == 0:
            self.unload_idle(self._clock())
        elif not self._is_watching:
            self._is_watching = True
            start_thread(self._watch_idle, failed=self._stop_watching)

    def _close_if_unused(self, entry: Entry[M]) -> None:
        """Start the end of a leaving entry that has neither users nor a load."""
        if entry.leaving and entry.is_unused and entry.model is not None:
            last = [entry.model]  # in a list, or the thread would hold the model until it ends
            entry.model = None
            start_thread(self._run_close, entry, last, failed=lambda _: self._run_close(entry, last))

    # --- threads ----------------------------------------------------------------------------------

    def _stop_watching(self, error: Exception) -> None:
        """Take note that no thread watches; the next model that becomes idle tries again."""
        log.error("idle models stay for now: %s", error)
        with self._changed:
            self._is_watching = False

    def _watch_idle(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = self._clock()
                since = self.unload_idle(now - self._idle_unload_s)
                if since is None:
                    break
                self._changed.wait(max(0.0, since + self._idle_unload_s - now))
            self._is_watching = False

    def _run_close(self, entry: Entry[M], last: list[M]) -> None:
        log.info("unloading model %s", entry.source.name)
        try:
            last.pop().close()
        except Exception:
            log.exception("closing model %s failed", entry.source.name)
        finally:
            entry.answer = Future()  # nothing waits for it, and it holds the model
            self._tidy()  # before the next load, which waits for this
            with self._changed:
                self._forget(entry)
                self._serve()
