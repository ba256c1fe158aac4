"""One decoder process, seen from the server: how it starts and ends, its pipes, and the order of messages.

Must not know what becomes of a file when the process that reads it dies.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from whisper_server.core.errors import Unavailable
from whisper_server.core.system.process import begin_thread
from whisper_server.services.audio.decoder_process.messages import (
    CHILD_WORD,
    Kind,
    Message,
    packed,
    receive,
    send,
)

if TYPE_CHECKING:
    from whisper_server.services.audio.bounded_file import BoundedFile

HUNG = 1  # how faulthandler ends a process; a crash has another exit code

# Isolated and without `site`: quicker, and independent of the environment. The paths are the server's.
CHILD_PROGRAM = """
import sys
sys.path[:] = sys.argv[1:]
from whisper_server.services.audio.decoder_process.child import main
main()
"""
PACKAGE_PARENT = Path(__file__).parents[4]  # the folder that holds `whisper_server`

END_LIMIT_S = 5.0  # for the system to end a process that was killed
PATIENCE_S = 0.1  # between two looks at whether a process that is busy is still for everybody

_READ_BYTES = 4096
_MAX_LINE_BYTES = 1000

log = logging.getLogger(__name__)


class Cause(Enum):
    """Why a process does no more for a decoder."""

    ELSEWHERE = auto()  # it ended, or was given to another decoder alone, while it did nothing for this one
    CRASH = auto()  # it ended while it worked for this decoder
    HANG = auto()  # it ended itself, or was ended by the limit on its time, in the work for this decoder
    KILLED = auto()  # by somebody else, or by us because it did not answer: not a fault of the file
    UNSTARTED = auto()  # it never began
    REFUSED = auto()  # it works for long, and no room is left for files that do


class ProcessDied(Exception):
    """The process does no more for the decoder that asked."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.name)
        self.cause = cause


class DecoderProcess:
    """One child and its pipes; any thread may ask, one at a time."""

    def __init__(self, on_turn: Callable[[], None] = lambda: None) -> None:
        """Start the process; the first request waits until it can answer. `on_turn` is called as each begins.

        Raises:
            Unavailable: it cannot be started.
        """
        self._on_turn = on_turn
        self._child, self._stderr_logger = _start()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._commands, self._answers = self._child.stdin, self._child.stdout
        self._lock = threading.Lock()
        self._to_close: deque[int] = deque()
        self._decoders: set[int] = set()  # the numbers of those that live in it
        self._waiting_since: float | None = None
        self._waited_s = 0.0
        self._cause: Cause | None = None  # why we have ended it
        self.pid = self._child.pid
        self.is_alive = True
        self.is_ready = False  # it has begun to answer
        self.n_asked = 0
        self.is_opening = False  # a file, in the request that is running
        self.has_answered = False  # something, in that request
        self.asking: int | None = None  # the decoder that it works for now
        self.owner: int | None = None  # the only decoder that it may work for
        self.n_opened = 0
        self.resident_bytes = 0  # after the last answer; 0: not known

    @property
    def n_decoders(self) -> int:
        """How many decoders live in it."""
        return len(self._decoders)

    @property
    def is_busy(self) -> bool:
        """Whether it works on a request now."""
        return self._lock.locked()

    @property
    def waited_s(self) -> float:
        """Seconds for which the running request has waited for the child, not for the file."""
        since = self._waiting_since
        return 0.0 if since is None else self._waited_s + time.monotonic() - since

    def begin(self) -> None:
        """Wait until the process can answer; blocks for a tenth of a second, once.

        Raises:
            ProcessDied: it has ended, before or now.
        """
        with self._turn(None):
            self._await_ready()

    def ask(self, kind: Kind, decoder: int, file: BoundedFile, fields: dict[str, Any]) -> list[Message]:
        """Send a request, serve the child the bytes that it wants, and return its answers; blocks.

        Raises:
            ProcessDied: the process has ended, before or now, or works for another decoder alone.
        """
        with self._turn(decoder):
            self._await_ready()
            self.n_asked += 1
            self.is_opening, self.has_answered, self._waited_s = kind is Kind.OPEN, False, 0.0
            self._send(kind, decoder, packed(fields))
            answers: list[Message] = []
            while not answers or answers[-1].kind is Kind.PIECE:
                message = self._receive()
                self.has_answered = True
                if message.kind is Kind.READ:
                    file.seek(message.fields()["offset"])
                    self._send(Kind.BYTES, decoder, file.read(message.number))
                else:
                    answers.append(message)
            self.resident_bytes = answers[-1].fields()["resident_bytes"]
            return answers

    def add_decoder(self, decoder: int) -> None:
        """Count a decoder that is about to be opened."""
        self._decoders.add(decoder)
        self.n_opened += 1

    def close_decoder(self, decoder: int) -> None:
        """Let the child close a decoder, now or after the step that is running.

        Never blocks: the garbage collector may call it, on a thread that is in here already.
        """
        self._decoders.discard(decoder)
        self._to_close.append(decoder)
        if self._lock.acquire(blocking=False):
            try:
                self._send_closes()
            finally:
                self._lock.release()

    @property
    def unsent_closes(self) -> int:
        """How many decoders are closed here, and not yet in the child."""
        return len(self._to_close)

    def end(self, cause: Cause) -> None:
        """Let a running request fail for this cause; does not wait for the end."""
        self._cause = self._cause or cause
        self.is_alive = False
        self._child.kill()

    def kill(self, timeout_s: float = -1) -> bool:
        """End the process now; a running request raises `ProcessDied`. Idempotent.

        Return whether that is done: the system may keep a process that it has frozen.
        """
        self.end(Cause.ELSEWHERE)
        if not self._lock.acquire(
            timeout=timeout_s
        ):  # free as soon as a running `ask` has seen the end of the pipe
            return False
        try:
            self._note_end()
        finally:
            self._lock.release()
        return True

    @contextmanager
    def _turn(self, decoder: int | None) -> Iterator[None]:
        """Wait for the turn of a decoder."""
        while not self._lock.acquire(timeout=PATIENCE_S):
            self._check_owner(decoder)
        try:
            self._check_owner(decoder)
            self.asking = decoder
            self._on_turn()  # busy by now
            yield
        finally:
            self.asking = self._waiting_since = None
            self._send_closes()
            self._lock.release()

    def _check_owner(self, decoder: int | None) -> None:
        if self.owner not in (None, decoder) or not self.is_alive:
            raise ProcessDied(Cause.ELSEWHERE)

    def _await_ready(self) -> None:
        """Wait for the first message; needs the lock."""
        if self.is_ready:
            return
        self._waited_s = 0.0
        with self._waiting():
            ready = receive(self._answers)
        if ready is not None and ready.kind is Kind.READY:
            self.is_ready = True
            return
        was_ended = self._cause
        self._note_end()
        self._stderr_logger.join()  # the reason is in the log before the next line
        if was_ended is Cause.ELSEWHERE:
            raise ProcessDied(was_ended)
        if was_ended is None and _cause_of(self._child.returncode) is Cause.KILLED:
            raise ProcessDied(Cause.KILLED)
        log.error("a decoder process ended before it had begun (exit code %s)", self._child.returncode)
        raise ProcessDied(Cause.UNSTARTED)

    def _receive(self) -> Message:
        """Return the next message; needs the lock."""
        with self._waiting():
            message = receive(self._answers)
        if message is None:
            self._note_end()
            raise ProcessDied(self._cause or _cause_of(self._child.returncode))
        return message

    def _send(self, kind: Kind, decoder: int, data: bytes = b"") -> None:
        if not self.is_alive:
            raise ProcessDied(self._cause or Cause.ELSEWHERE)
        try:
            with self._waiting():
                send(self._commands, kind, decoder, data=data)
        except OSError as error:
            self._note_end()
            is_at_work = kind is Kind.BYTES
            cause = self._cause or (_cause_of(self._child.returncode) if is_at_work else Cause.ELSEWHERE)
            raise ProcessDied(cause) from error

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count the time in which the child has to do something."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waited_s, self._waiting_since = self.waited_s, None

    def _send_closes(self) -> None:
        """Tell the child of the decoders that were closed; needs the lock."""
        with suppress(ProcessDied):
            while self._to_close and self.is_ready:
                self._send(Kind.CLOSE, self._to_close.popleft())

    def _note_end(self) -> None:
        """Note the end of the process; needs the lock. Idempotent."""
        if self._child.returncode is None or self.is_alive:
            self.is_alive = False
            self._child.kill()  # where it has closed its pipes and still lives
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(END_LIMIT_S)
            if self._cause is not Cause.ELSEWHERE:
                log.warning("a decoder process ended (exit code %s)", self._child.returncode)
        for pipe in (self._commands, self._answers):
            with suppress(OSError):  # what is in its buffer has no reader any more
                pipe.close()


def _cause_of(code: int | None) -> Cause:
    """Return why a process ended that was at work, from its exit code."""
    if code is not None and -code == getattr(signal, "SIGKILL", None):
        return Cause.KILLED
    if code == HUNG or (code is not None and -code == getattr(signal, "SIGXCPU", None)):
        return Cause.HANG
    return Cause.CRASH


def child_command() -> list[str]:
    """Return the command that is a decoder process, from source or from the one-file program."""
    if hasattr(sys, "frozen"):
        return [sys.executable, CHILD_WORD]
    return [sys.executable, "-I", "-S", "-c", CHILD_PROGRAM, str(PACKAGE_PARENT), *filter(None, sys.path)]


def _start() -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start a child, and the thread that reads its standard error. Raises as `DecoderProcess`."""
    try:
        child = subprocess.Popen(  # noqa: S603  (our own interpreter, our own words)
            child_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # the server's own may have no reader, and a write to it would hang
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        log.exception("a decoder process cannot be started")
        raise unavailable() from error
    assert child.stderr is not None
    stderr_logger = threading.Thread(
        target=_log_stderr, args=(child.pid, child.stderr), name="decoder-stderr", daemon=True
    )
    try:
        begin_thread(stderr_logger)
    except RuntimeError as error:  # no more threads
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None
            pipe.close()
        log.exception("a decoder process cannot be started")
        raise unavailable() from error
    return child, stderr_logger


def _log_stderr(pid: int, pipe: IO[bytes]) -> None:
    """Log what a child writes to its standard error, until it ends."""
    with pipe:
        rest = b""
        # Past the buffer: its lock must not be held when the interpreter ends.
        while data := os.read(pipe.fileno(), _READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in filter(None, lines):
                log.warning("decoder process %d: %s", pid, line.decode("utf-8", "replace").rstrip())
        if rest:
            log.warning("decoder process %d: %s", pid, rest.decode("utf-8", "replace").rstrip())


def unavailable() -> Unavailable:
    """Return the error of a request for which no process can be started."""
    return Unavailable(
        "The process that reads audio cannot be started. See the server's log, or set "
        "WHISPER_DECODER_PROCESSES=0 to read audio in the server itself."
    )
