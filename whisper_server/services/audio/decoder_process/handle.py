"""One decoder process, seen from the server: its life, its pipes, and who may speak when.

Must not know what a sound is good for, or what becomes of it when the process dies.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from whisper_server.services.audio.decoder_process.decode_spawn import spawn
from whisper_server.services.audio.decoder_process.messages import Kind, Message, packed, receive, send

if TYPE_CHECKING:
    from whisper_server.services.audio.bounded_file import BoundedFile

HUNG = 1  # how faulthandler ends a process; a crash has another exit code

log = logging.getLogger(__name__)


class ProcessDied(Exception):
    """The process has ended.

    `is_suspect` if it was working for who asked, `was_hanging` if it ended itself because that took too long.
    """

    def __init__(self, *, is_suspect: bool, was_hanging: bool = False) -> None:
        super().__init__()
        self.is_suspect = is_suspect
        self.was_hanging = was_hanging


class DecodeProcess:
    """One child and its pipes; any thread may ask, one at a time."""

    def __init__(self) -> None:
        self._child = spawn()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._commands, self._answers = self._child.stdin, self._child.stdout
        self._lock = threading.Lock()
        self._to_close: deque[int] = deque()
        self.sounds: set[int] = set()
        self.pid = self._child.pid
        self.is_alive = True

    @property
    def is_busy(self) -> bool:
        """Whether it is decoding now."""
        return self._lock.locked()

    def ask(self, kind: Kind, sound: int, file: BoundedFile, fields: dict[str, Any]) -> list[Message]:
        """Send a request, serve the child the bytes that it wants, and return its answers; blocks.

        Raises:
            ProcessDied: the process has ended, before or now.
        """
        with self._lock:
            try:
                self._send(kind, sound, packed(fields))
                answers: list[Message] = []
                while not answers or answers[-1].kind is Kind.PIECE:
                    message = receive(self._answers)
                    if message is None:
                        self._bury()
                        raise ProcessDied(is_suspect=True, was_hanging=self._child.returncode == HUNG)
                    if message.kind is Kind.READ:
                        file.seek(message.fields()["offset"])
                        self._send(Kind.BYTES, sound, file.read(message.number))
                    else:
                        answers.append(message)
                return answers
            finally:
                self._flush_closed()

    def forget(self, sound: int) -> None:
        """Let a sound go, now or after the step that is running.

        Never blocks: the garbage collector may call it, on a thread that is in here already.
        """
        self.sounds.discard(sound)
        self._to_close.append(sound)
        if self._lock.acquire(blocking=False):
            try:
                self._flush_closed()
            finally:
                self._lock.release()

    def kill(self) -> None:
        """End the process now; who waits for it gets `ProcessDied`. Idempotent."""
        self.is_alive = False
        self._child.kill()
        self._child.wait()
        with self._lock:  # who asked has seen the end of the pipe
            self._bury()

    def _send(self, kind: Kind, sound: int, data: bytes = b"") -> None:
        if not self.is_alive:
            raise ProcessDied(is_suspect=False)
        try:
            send(self._commands, kind, sound, data=data)
        except OSError as error:
            self._bury()
            raise ProcessDied(is_suspect=kind is Kind.BYTES) from error

    def _flush_closed(self) -> None:
        """Tell the child of the sounds that are gone; needs the lock."""
        with suppress(ProcessDied):
            while self._to_close:
                self._send(Kind.CLOSE, self._to_close.popleft())

    def _bury(self) -> None:
        """Note the end of the process; needs the lock. Idempotent."""
        was_alive, self.is_alive = self.is_alive, False
        self._child.kill()  # where it has closed its pipes and still lives
        code = self._child.wait()
        for pipe in (self._commands, self._answers):
            with suppress(OSError):  # what is in its buffer has no reader any more
                pipe.close()
        if was_alive:
            log.warning("a decoder process ended (exit code %d)", code)
