"""A decoder in another process, which outlives that process.

Owns what becomes of a file when the process that reads it ends: whose fault it was, whether it is tried once
more, and where it goes on. Must not know how many processes there are, or which of them is taken.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from whisper_server.core.errors import AudioTooLong, InvalidAudio, Unavailable, UnknownTrack
from whisper_server.core.types import AudioInfo, Track
from whisper_server.services.audio.decoder_process.handle import (
    Cause,
    DecoderProcess,
    ProcessDied,
    unavailable,
)
from whisper_server.services.audio.decoder_process.messages import Kind, Message
from whisper_server.services.audio.decoder_process.watch import SLOW_S
from whisper_server.services.audio.demuxer import TOO_HUNGRY
from whisper_server.services.audio.resampler import Piece

if TYPE_CHECKING:
    from whisper_server.services.audio.bounded_file import BoundedFile
    from whisper_server.services.audio.budget import Budget
    from whisper_server.services.audio.resampler import Channel

log = logging.getLogger(__name__)

T = TypeVar("T")
_ERRORS = {kind.__name__: kind for kind in (InvalidAudio, AudioTooLong, UnknownTrack)}
_numbers = itertools.count(1)  # of decoders

CRASHED = "The file cannot be decoded: it makes the decoder crash. Convert it with another program."
HANGS = "The file cannot be decoded: it makes the decoder hang. Convert it with another program."
KILLED = (
    "The process that reads the audio was ended from outside, perhaps for want of memory. Try again later."
)
PUT_OFF = "The server is busy with files that take long to decode, as this one does. Try again later."


class Processes(Protocol):
    """Where a decoder gets its process from; `pool` has them."""

    def waiting(self) -> AbstractContextManager[None]:
        """Let others have the processor while this thread waits in the block."""
        ...

    def shared(self) -> DecoderProcess:
        """Return a process for everybody."""
        ...

    def private(self, decoder: int) -> DecoderProcess:
        """Return a new process for one decoder; raises `Unavailable` where there is no room for one."""
        ...

    def share_again(self, process: DecoderProcess) -> None:
        """Let a process that was given to one decoder work for everybody."""
        ...

    def release(self, process: DecoderProcess, decoder: int) -> None:
        """Note that a decoder has left a process; never blocks."""
        ...

    def note(self, *, answers: bool) -> None:
        """Note whether a process answered."""
        ...

    def check_open(self) -> None:
        """Raise `ShuttingDown` where the processes have ended for good."""
        ...


class RemoteDecoder:
    """An open file and the process that reads it now; see `Decoder`."""

    def __init__(
        self, processes: Processes, file: BoundedFile, fields: dict[str, Any], budget: Budget
    ) -> None:
        self._processes = processes
        self._file = file
        self._fields = fields
        self._budget = budget
        self._spent = budget.share()
        self._process: DecoderProcess | None = None
        self._number = next(_numbers)
        self._n_steps = 0
        self._suspected: Cause | None = None  # why it was tried once more
        self._alive(lambda _: None, "mix")

    def pieces(self, channel: Channel) -> Iterator[Piece]:
        """Yield the samples; see `Decoder`."""
        is_done = False
        while not is_done:
            answers = self._alive(lambda process: self._step(process, channel), channel)
            self._n_steps += 1
            yield from (Piece(each.number, each.data) for each in answers if each.kind is Kind.PIECE)
            self._check(answers[-1])
            is_done = answers[-1].kind is Kind.END

    def close(self) -> None:
        """Let the child close its decoder; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.close_decoder(self._number)
            self._processes.release(process, self._number)

    def _alive(self, act: Callable[[DecoderProcess], T], channel: Channel) -> T:
        """Act with a process that has come as far as this decoder; where it dies, with another one.

        Raises:
            InvalidAudio: two processes have died of this file, or one of a hang.
            Unavailable: two were killed while they read it, or it takes long and has to wait.
        """
        while True:
            try:
                with self._processes.waiting():
                    if self._process is None:
                        self._begin(channel)
                    assert self._process is not None
                    result = act(self._process)
            except ProcessDied as died:
                self.close()
                self._processes.check_open()
                self._weigh(died.cause)
            else:
                self._processes.note(answers=True)
                return result

    def _weigh(self, cause: Cause) -> None:
        """Decide whether the file may be tried once more; raises what `_alive` does."""
        if cause is Cause.ELSEWHERE:
            return
        if cause is Cause.UNSTARTED:
            self._processes.note(answers=False)
            raise unavailable()
        if cause is Cause.REFUSED:
            raise Unavailable(PUT_OFF)
        if cause is Cause.HANG:
            log.warning("a file made the decoder hang; it is refused")
            raise InvalidAudio(HANGS)
        if self._suspected and cause is Cause.KILLED:
            raise Unavailable(KILLED)
        if self._suspected:
            log.warning("a file made the decoder crash twice; it is refused")
            raise InvalidAudio(CRASHED)
        self._suspected = cause

    def _taken(self) -> DecoderProcess:
        """Return a process to begin in; a suspect has its own, where there is room or it is needed."""
        if self._suspected is None:
            return self._processes.shared()
        try:
            return self._processes.private(self._number)
        except Unavailable:
            if self._suspected is not Cause.KILLED:
                raise
            return self._processes.shared()

    def _begin(self, channel: Channel) -> None:
        """Open the file in a process, and repeat the steps that were done before."""
        self._process = process = self._taken()
        process.add_decoder(self._number)
        try:
            fields = {**self._fields, "has_checked_tables": self._budget.has_checked_tables}
            opened = self._ask(process, Kind.OPEN, fields)[-1]
            self._check(opened)
            self._budget.has_checked_tables = True
            self.info = _info(opened.fields()["info"])
            for _ in range(self._n_steps):
                self._step(process, channel)
        except BaseException:
            self.close()  # or the process, where it is this decoder's own, would be missed by others for good
            raise

    def _step(self, process: DecoderProcess, channel: Channel) -> list[Message]:
        return self._ask(process, Kind.STEP, {"channel": channel})

    def _ask(self, process: DecoderProcess, kind: Kind, fields: dict[str, Any]) -> list[Message]:
        """Ask a process, and note what the child has spent by now.

        Raises:
            ProcessDied: as `DecoderProcess.ask`, or the file needs more memory than is left there.
        """
        others = self._budget.besides(self._spent).fields()
        answers = process.ask(kind, self._number, self._file, {**fields, "spent": others})
        state = answers[-1].fields()
        before_s = self._spent.cpu_s
        self._spent.set(*state["spent"])
        was_starved = self._spent.cpu_s - before_s < SLOW_S  # and not slow
        if process.owner == self._number and not self._suspected and was_starved:
            self._processes.share_again(process)
        if state.get("message") == TOO_HUNGRY and not self._suspected:
            raise ProcessDied(Cause.CRASH)
        return answers

    def _check(self, answer: Message) -> None:
        """Raise what the child could not do, or what went wrong with the file meanwhile."""
        if answer.kind in (Kind.END, Kind.FAILED):
            self._file.check()
        if answer.kind is Kind.FAILED:
            fields = answer.fields()
            kind = _ERRORS.get(fields["error"])
            raise kind(fields["message"]) if kind else RuntimeError(f"decoder process: {fields['message']}")


def _info(fields: dict[str, Any]) -> AudioInfo:
    return AudioInfo(**{**fields, "tracks": tuple(Track(**each) for each in fields["tracks"])})
