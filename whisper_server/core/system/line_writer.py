"""Lines -> standard error, from a thread of its own, so that logging never waits for a reader.

An app may start the server, read one line of the pipe and no more: 64 kB later a write blocks, and for ever.
So lines go into a queue that is bounded in lines and bytes. What does not fit is counted, and
once the queue is half empty again one line says how many are missing, at the place where they are.
"""

from __future__ import annotations

import io
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

MAX_LINES = 10_000
MAX_BYTES = 4 << 20
_RETRY_EVERY_S = 1.0  # to write to a full pipe that does not block, where the system cannot wait for room
_MAX_PART_CHARS = 8192  # of a line that has not ended


class LineWriter:
    """A bounded queue of lines and the thread that writes them; any thread may put, in a finalizer too."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        notice: Callable[[int], bytes],
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Take `write`, which may block and raise OSError, and `notice`, a line for that many missing."""
        self._write = write
        self._notice = notice
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        # Of all queues this is the one whose `put` may be entered again by the thread that is in it: the
        # garbage collector runs finalizers anywhere, and some of them log. Hence the reentrant lock.
        self._queue: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._n_lines = 0  # in the queue, or being written
        self._n_bytes = 0
        self._n_missing = 0  # since the last notice; while there are any, no more lines are taken
        self._n_dropped = 0
        # Its name is not one of those for which `leave` ends the process without tearing it down.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def n_dropped(self) -> int:
        """How many lines were lost so far: for want of room, or because they could not be written."""
        return self._n_dropped

    def put(self, line: bytes) -> None:
        """Have a line written, or count it as lost; never blocks."""
        with self._lock:
            is_full = self._n_lines >= self._max_lines or self._n_bytes + len(line) > self._max_bytes
            if is_full or self._n_missing:
                self._n_missing += 1
                self._n_dropped += 1
                if not self._n_lines:  # a line longer than the queue: no later write would add the notice
                    self._add_notice()
                return
            self._add(line)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put is written; return False where that takes longer."""
        deadline = time.monotonic() + timeout_s
        for _ in range(2):  # the second time for a notice that came behind the first
            mark = threading.Event()
            self._queue.put(mark)
            if not mark.wait(max(0.0, deadline - time.monotonic())):
                return False
        return True

    def close(self, timeout_s: float) -> None:
        """Write what was put and end the thread, or leave it to its write where that takes longer.

        Call it before the interpreter is torn down: a thread that wants to run meanwhile is ended by the C
        library, which loads another library for that, and aborts where no file can be opened any more.
        """
        if self.flush(timeout_s):
            self._queue.put(None)
            self._thread.join(timeout_s)

    def _add(self, line: bytes) -> None:
        self._n_lines += 1
        self._n_bytes += len(line)
        self._queue.put(line)

    def _add_notice(self) -> None:
        line = self._notice(self._n_missing)
        self._n_missing = 0
        self._add(line)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._write(item)
                is_lost = False
            except (
                OSError,
                ValueError,
            ):  # the reader has ended, the disk is full: the next line may be written
                is_lost = True
            with self._lock:
                self._n_lines -= 1
                self._n_bytes -= len(item)
                self._n_dropped += is_lost
                has_room = self._n_lines <= self._max_lines // 2 and self._n_bytes <= self._max_bytes // 2
                if self._n_missing and has_room:
                    self._add_notice()


class LineStream(io.TextIOBase):
    """A stand-in for `sys.stderr`: what is printed joins the queue of the log, in order, without blocking."""

    def __init__(self, stream: TextIO, put: Callable[[str], None]) -> None:
        """Take the stream that it stands in for, and `put`, which takes whole lines."""
        self._stream = stream
        self._put = put
        self._lock = threading.RLock()
        self._part = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of what is written in the end."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Take text; it is passed on when its line has ended."""
        with self._lock:
            whole, end, self._part = (self._part + text).rpartition("\n")
            if whole or end:
                self._put(whole + end)
            if len(self._part) > _MAX_PART_CHARS:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Pass on a line that has not ended; does not wait until it is written."""
        with self._lock:
            part, self._part = self._part, ""
            if part:
                self._put(part)

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor behind it."""
        return self._stream.fileno()


def writer_to(stream: TextIO) -> Callable[[bytes], None]:
    """Return what writes bytes past the buffer of a text stream.

    The buffer has a lock, and an interpreter that ends while a thread holds it, blocked, aborts.
    """
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without -u there is a buffer; on a Windows console raw takes UTF-8
    if not isinstance(raw, io.RawIOBase):

        def write_text(line: bytes) -> None:
            stream.write(line.decode(stream.encoding or "utf-8", "replace"))
            stream.flush()

        return write_text

    def write(line: bytes) -> None:
        left = memoryview(line)
        while left:
            written = raw.write(left)
            if written is None:  # it is set not to block, and full
                _wait_for_room(raw)
            else:
                left = left[written:]

    return write


def _wait_for_room(raw: io.RawIOBase) -> None:
    if sys.platform == "win32":
        time.sleep(_RETRY_EVERY_S)
    else:
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLOUT)
        poll.poll()  # returns when the reader ends, too


def unblock(stream: TextIO) -> None:
    """Let a write fail where it would block, if the stream is a pipe and the system has a way for that.

    For what writes past this module: native libraries that warn, and the C library when it aborts, would wait
    for a reader while they hold locks. Other processes share the file description, so the pipe is opened a
    second time.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, ValueError):  # no descriptor, no /proc, no right to open it
        descriptor = stream.fileno()
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(own, descriptor)
            os.close(own)


def line_bytes(stream: TextIO, text: str) -> bytes:
    """Return a text as the stream would write it; what its encoding lacks is escaped."""
    if os.linesep != "\n":
        text = text.replace("\n", os.linesep)
    return text.encode(stream.encoding or "utf-8", "backslashreplace")
