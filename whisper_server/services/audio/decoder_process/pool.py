"""Decoder processes: libav reads uploads where the server survives what they do to it.

Theory of operation. There are a few shared processes, started when they are needed; a decoder stays in one of
them. A process works for one decoder at a time, so when it dies in the middle of a step, that decoder's file
is the suspect. The suspect is tried once more in a process of its own, from its beginning up to where it was;
if that one dies too, the file is refused (`remote`). A hang is refused at once. Other decoders of the dead
process go on in another in the same way, without an error. The files stay with the server: nothing is lost
with a process.

A process whose step takes long is set aside for the file alone that it works for (`watch`): others leave it,
and a new one has its place. There is room for a few of them. Where it is full, what takes long is put off
with a 503: no file keeps others waiting. A process that does not answer is ended.

A process works on request only, and a step yields about 1 MB: memory stays bounded. What a file has made a
process grow by goes back to the system when no file is open in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

from whisper_server.core.errors import ShuttingDown, Unavailable
from whisper_server.core.shutdown import SHUTTING_DOWN
from whisper_server.core.system.process import begin_thread, is_stopped
from whisper_server.core.types import TrackChoice
from whisper_server.services.audio.budget import Budget
from whisper_server.services.audio.decoder import Decoder, LibavDecoder
from whisper_server.services.audio.decoder_process.handle import (
    Cause,
    DecoderProcess,
    ProcessDied,
    unavailable,
)
from whisper_server.services.audio.decoder_process.remote import PUT_OFF, RemoteDecoder
from whisper_server.services.audio.decoder_process.watch import Verdict, Watch

if TYPE_CHECKING:
    from whisper_server.services.audio.bounded_file import BoundedFile

log = logging.getLogger(__name__)

MIN_ASIDE = 2  # processes for single files; with more shared ones, as many
TICK_S = 0.2  # between two looks at processes that work
# After which a process ends, once no file is open in it: it has 40 MB to begin with.
GROWN_BYTES = 96 << 20
MAX_OPENED = 1000


class DecoderProcesses:
    """Opens decoders in at most `limit` shared processes, and in some for single files; thread-safe."""

    def __init__(self, limit: int, waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Take `waiting`, under which a thread waits for a process and needs no processor."""
        self.waiting = waiting
        self._limit = limit
        self._lock = threading.Lock()
        self._shared: list[DecoderProcess] = []
        self._aside: list[DecoderProcess] = []
        self._leaving: list[DecoderProcess] = []  # to be ended by the watch
        self._is_closed = False
        self._watch_thread: threading.Thread | None = None
        self._has_work = threading.Event()
        self._answers = True  # no process has failed since one has answered
        self._is_checking = False

    @staticmethod
    def most(limit: int) -> int:
        """Return how many processes there may be at once."""
        return limit + max(limit, MIN_ASIDE)

    def open(
        self,
        file: BoundedFile,
        max_seconds: float,
        choice: TrackChoice | None = None,
        budget: Budget | None = None,
    ) -> Decoder:
        """Open a file in a process; one that cannot seek is opened here. Raises as `LibavDecoder`.

        Raises:
            Unavailable: no process can be started, or those that there are were ended from outside, or are
                busy with other files that take long.
            ShuttingDown: this is closed.
        """
        budget = budget or Budget()
        if file.size_bytes is None:
            return LibavDecoder(file, max_seconds, choice, budget)
        fields = {
            "size_bytes": file.size_bytes,
            "max_seconds": max_seconds,
            "choice": asdict(choice or TrackChoice()),
        }
        return RemoteDecoder(self, file, fields, budget)

    def pids(self) -> list[int]:
        """Return the numbers of the processes that live."""
        with self._lock:
            return [process.pid for process in (*self._shared, *self._aside) if process.is_alive]

    @property
    def is_answering(self) -> bool:
        """Whether the process that was asked last has answered, or none was asked yet."""
        return self._answers

    def check(self) -> None:
        """Find out whether a process answers, after one did not; blocks, but not for another check.

        Raises:
            Unavailable: none does.
        """
        with self._lock:
            is_first, self._is_checking = not self._is_checking, True
        if not is_first:
            raise unavailable()
        try:
            with self.waiting():
                self.shared().begin()
            self.note(answers=True)
        except ProcessDied as died:
            raise unavailable() from died
        finally:
            self._is_checking = False

    def note(self, *, answers: bool) -> None:
        """Note whether a process answered."""
        self._answers = answers

    def close(self) -> None:
        """End all processes; their decoders raise `ShuttingDown`. Idempotent; blocks for milliseconds."""
        with self._lock:
            self._is_closed = True
            ending = [*self._shared, *self._aside, *self._leaving]
        for process in ending:
            process.kill()
        self._has_work.set()

    def check_open(self) -> None:
        """Check that files can still be opened and read.

        Raises:
            ShuttingDown: no longer.
        """
        if self._is_closed:
            raise ShuttingDown(SHUTTING_DOWN)

    def shared(self) -> DecoderProcess:
        """Return a process: an idle one, a new one, or the one with the fewest decoders."""
        with self._lock:
            self.check_open()
            for process in self._shared:
                if process.is_alive and not process.is_busy and is_stopped(process.pid):
                    process.end(Cause.ELSEWHERE)
            self._part_from_the_dead()
            idle = [process for process in self._shared if not process.is_busy and not _has_grown(process)]
            if not idle and len(self._shared) < self._limit:
                idle = [self._started()]
                self._shared += idle
            return min(idle or self._shared, key=lambda process: (_has_grown(process), process.n_decoders))

    def private(self, decoder: int) -> DecoderProcess:
        """Return a new process for one decoder alone.

        Raises:
            Unavailable: there are as many of them as may be.
        """
        with self._lock:
            self.check_open()
            if not self._has_room_aside():
                raise Unavailable(PUT_OFF)
            process = self._started()
            process.owner = decoder
            self._aside.append(process)
            return process

    def release(self, process: DecoderProcess, decoder: int) -> None:
        """Note that a decoder has left a process; never blocks."""
        is_useless = process.n_decoders == 0 and _has_grown(process)
        if is_useless or process.owner == decoder:
            process.is_alive = False
            self._has_work.set()  # the watch ends it

    def share_again(self, process: DecoderProcess) -> None:
        """Let a process work for everybody again: its step waited long, but worked little."""
        with self._lock:
            if process not in self._aside or not process.is_alive:
                return
            self._aside.remove(process)
            process.owner = None
            self._shared.append(process)
            idle = [each for each in self._shared if not each.n_decoders and not each.is_busy]
            if len(self._shared) > self._limit and idle:
                idle[0].is_alive = False
                self._has_work.set()

    def _look_after(self) -> None:
        """Let the watch look at the processes, of which one is busy now."""
        self._has_work.set()
        if self._watch_thread is not None:
            return
        with self._lock:
            if self._watch_thread is None and not self._is_closed:
                thread = threading.Thread(target=self._watch, name="decoder-watch", daemon=True)
                try:
                    begin_thread(thread)
                except RuntimeError as error:  # no more threads
                    log.exception("decoder processes cannot be watched")
                    raise unavailable() from error
                self._watch_thread = thread

    def _has_room_aside(self) -> bool:
        """Tell whether one more file may have a process alone; needs the lock."""
        self._part_from_the_dead()
        return len(self._aside) < max(self._limit, MIN_ASIDE)

    def _part_from_the_dead(self) -> None:
        """Leave processes that are of no more use to the watch; needs the lock."""
        dead = [process for process in (*self._shared, *self._aside) if not process.is_alive]
        if dead:
            self._shared = [process for process in self._shared if process.is_alive]
            self._aside = [process for process in self._aside if process.is_alive]
            self._leaving += dead
            self._has_work.set()

    def _started(self) -> DecoderProcess:
        try:
            return DecoderProcess(self._look_after)
        except Unavailable:
            self.note(answers=False)
            raise

    def _watch(self) -> None:
        """Set aside what takes long, end what does not answer, and what is of no more use."""
        watch = Watch()
        while not self._is_closed:
            self._has_work.clear()
            with self._lock:
                self._part_from_the_dead()
                processes = [*self._shared, *self._aside]
                leaving, self._leaving = self._leaving, []
            unended = [process for process in leaving if not process.kill(timeout_s=TICK_S)]
            busy = [process for process in processes if process.is_alive and process.is_busy]
            for process in busy:
                self._act_on(process, watch.look_at(process))
            self._leaving += unended  # one step of a list: nothing is lost to another thread
            if busy or unended:
                time.sleep(TICK_S)
            else:
                self._has_work.wait()

    def _act_on(self, process: DecoderProcess, verdict: Verdict) -> None:
        if verdict is Verdict.LOST:
            log.warning("decoder process %d does not answer; it is ended", process.pid)
            self.note(answers=False)
            process.end(Cause.KILLED)
        elif verdict is Verdict.SLOW and process.owner is None:
            self._set_aside(process)

    def _set_aside(self, process: DecoderProcess) -> None:
        """Leave a process to the decoder that it works for."""
        with self._lock:
            decoder = process.asking
            if decoder is None or process not in self._shared:
                return
            if not self._has_room_aside():
                process.end(Cause.REFUSED)
                return
            process.owner = decoder
            self._shared.remove(process)
            self._aside.append(process)


def _has_grown(process: DecoderProcess) -> bool:
    return process.resident_bytes > GROWN_BYTES or process.n_opened >= MAX_OPENED
