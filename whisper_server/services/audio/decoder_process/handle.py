"""One decoder process, seen from the server: how it starts and ends, its pipes, and the order of messages.

Must not know what becomes of a file when the process that reads it dies.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from whisper_server.core.errors import Unavailable
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

_READ_BYTES = 4096
_MAX_LINE_BYTES = 1000

log = logging.getLogger(__name__)


class ProcessDied(Exception):
    """The process has ended.

    `is_suspect` if it was working for the caller, `was_hanging` if it ended itself because that took
    too long.
    """

    def __init__(self, *, is_suspect: bool, was_hanging: bool = False) -> None:
        super().__init__()
        self.is_suspect = is_suspect
        self.was_hanging = was_hanging


class DecoderProcess:
    """One child and its pipes; any thread may ask, one at a time."""

    def __init__(self) -> None:
        """Start the process and wait until its decoder is loaded; blocks for a tenth of a second.

        Raises:
            Unavailable: it cannot be started.
        """
        self._child = _start()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._commands, self._answers = self._child.stdin, self._child.stdout
        self._lock = threading.Lock()
        self._to_close: deque[int] = deque()
        self._decoders: set[int] = set()  # the numbers of those that live in it
        self.pid = self._child.pid
        self.is_alive = True

    @property
    def n_decoders(self) -> int:
        """How many decoders live in it."""
        return len(self._decoders)

    @property
    def is_busy(self) -> bool:
        """Whether it works on a request now."""
        return self._lock.locked()

    def ask(self, kind: Kind, decoder: int, file: BoundedFile, fields: dict[str, Any]) -> list[Message]:
        """Send a request, serve the child the bytes that it wants, and return its answers; blocks.

        Raises:
            ProcessDied: the process has ended, before or now.
        """
        with self._lock:
            try:
                self._send(kind, decoder, packed(fields))
                answers: list[Message] = []
                while not answers or answers[-1].kind is Kind.PIECE:
                    message = receive(self._answers)
                    if message is None:
                        self._note_end()
                        raise ProcessDied(is_suspect=True, was_hanging=self._child.returncode == HUNG)
                    if message.kind is Kind.READ:
                        file.seek(message.fields()["offset"])
                        self._send(Kind.BYTES, decoder, file.read(message.number))
                    else:
                        answers.append(message)
                return answers
            finally:
                self._send_closes()

    def add_decoder(self, decoder: int) -> None:
        """Count a decoder that is about to be opened."""
        self._decoders.add(decoder)

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

    def kill(self) -> None:
        """End the process now; a running `ask` raises `ProcessDied`. Idempotent."""
        self.is_alive = False
        self._child.kill()
        self._child.wait()
        with self._lock:  # free as soon as a running `ask` has seen the end of the pipe
            self._note_end()

    def _send(self, kind: Kind, decoder: int, data: bytes = b"") -> None:
        if not self.is_alive:
            raise ProcessDied(is_suspect=False)
        try:
            send(self._commands, kind, decoder, data=data)
        except OSError as error:
            self._note_end()
            raise ProcessDied(is_suspect=kind is Kind.BYTES) from error

    def _send_closes(self) -> None:
        """Tell the child of the decoders that were closed; needs the lock."""
        with suppress(ProcessDied):
            while self._to_close:
                self._send(Kind.CLOSE, self._to_close.popleft())

    def _note_end(self) -> None:
        """Note the end of the process; needs the lock. Idempotent."""
        was_alive, self.is_alive = self.is_alive, False
        self._child.kill()  # where it has closed its pipes and still lives
        code = self._child.wait()
        for pipe in (self._commands, self._answers):
            with suppress(OSError):  # what is in its buffer has no reader any more
                pipe.close()
        if was_alive:
            log.warning("a decoder process ended (exit code %d)", code)


def child_command() -> list[str]:
    """Return the command that is a decoder process, from source or from the one-file program."""
    if hasattr(sys, "frozen"):
        return [sys.executable, CHILD_WORD]
    return [sys.executable, "-I", "-S", "-c", CHILD_PROGRAM, str(PACKAGE_PARENT), *filter(None, sys.path)]


def _start() -> subprocess.Popen[bytes]:
    """Start a child and wait for its READY. Raises as `DecoderProcess`."""
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
        raise _unavailable() from error
    assert child.stdout is not None
    assert child.stderr is not None
    stderr_logger = threading.Thread(
        target=_log_stderr, args=(child.pid, child.stderr), name="decoder-stderr", daemon=True
    )
    try:
        stderr_logger.start()
    except RuntimeError as error:  # no more threads
        _end(child)
        child.stderr.close()
        log.exception("a decoder process cannot be started")
        raise _unavailable() from error
    ready = receive(child.stdout)
    if ready is None or ready.kind is not Kind.READY:
        _end(child)
        stderr_logger.join()  # the reason is in the log before the next line
        log.error("a decoder process ended before it had begun (exit code %s)", child.returncode)
        raise _unavailable()
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()


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


def _unavailable() -> Unavailable:
    return Unavailable(
        "The process that reads audio cannot be started. See the server's log, or set "
        "WHISPER_DECODER_PROCESSES=0 to read audio in the server itself."
    )
