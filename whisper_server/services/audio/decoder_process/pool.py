"""Decoder processes: libav reads uploads where the server survives its crashes.

Theory of operation. There are a few shared processes, started when they are needed; a decoder stays in one of
them. A process works for one decoder at a time, so when it dies in the middle of a step, that decoder's file
is the suspect. The suspect is tried once more in a process of its own, from its beginning up to where it was;
if that one dies too, the file is refused. A hang is refused at once. Other decoders of the dead process go on
in another in the same way, without an error. The files stay with the server: nothing is lost with a process.

A process works on request only, and a step yields about 1 MB: memory stays bounded.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from whisper_server.core.errors import AudioTooLong, InvalidAudio, ShuttingDown, UnknownTrack
from whisper_server.core.shutdown import SHUTTING_DOWN
from whisper_server.core.types import AudioInfo, Track, TrackChoice
from whisper_server.services.audio.decoder import Decoder, LibavDecoder
from whisper_server.services.audio.decoder_process.handle import DecoderProcess, ProcessDied
from whisper_server.services.audio.decoder_process.messages import Kind, Message
from whisper_server.services.audio.resampler import Piece

if TYPE_CHECKING:
    from whisper_server.services.audio.bounded_file import BoundedFile
    from whisper_server.services.audio.resampler import Channel

log = logging.getLogger(__name__)

T = TypeVar("T")
_ERRORS = {kind.__name__: kind for kind in (InvalidAudio, AudioTooLong, UnknownTrack)}
_numbers = itertools.count(1)  # of decoders

CRASHED = "The file cannot be decoded: it makes the decoder crash. Convert it with another program."
HANGS = "The file cannot be decoded: it makes the decoder hang. Convert it with another program."


class DecoderProcesses:
    """Opens decoders in at most `limit` shared processes; thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._shared: list[DecoderProcess] = []
        self._private: list[DecoderProcess] = []
        self._is_closed = False

    def open(self, file: BoundedFile, max_seconds: float, choice: TrackChoice | None = None) -> Decoder:
        """Open a file in a process; one that cannot seek is opened here. Raises as `LibavDecoder`.

        Raises:
            Unavailable: no process can be started.
            ShuttingDown: this is closed.
        """
        if file.size_bytes is None:
            return LibavDecoder(file, max_seconds, choice)
        fields = {
            "size_bytes": file.size_bytes,
            "max_seconds": max_seconds,
            "choice": asdict(choice or TrackChoice()),
        }
        return _RemoteDecoder(self, file, fields)

    def pids(self) -> list[int]:
        """Return the numbers of the processes that live."""
        with self._lock:
            return [process.pid for process in (*self._shared, *self._private) if process.is_alive]

    def close(self) -> None:
        """End all processes; their decoders raise `ShuttingDown`. Idempotent; blocks for milliseconds."""
        with self._lock:
            self._is_closed = True
            ending = [*self._shared, *self._private]
        for process in ending:
            process.kill()

    def check_open(self) -> None:
        """Check that files can still be opened and read.

        Raises:
            ShuttingDown: no longer.
        """
        if self._is_closed:
            raise ShuttingDown(SHUTTING_DOWN)

    def shared(self) -> DecoderProcess:
        """Return a process: an idle one, a new one, or the one with the fewest decoders; blocks."""
        with self._lock:
            self.check_open()
            self._shared = [process for process in self._shared if process.is_alive]
            idle = [process for process in self._shared if not process.is_busy]
            if not idle and len(self._shared) < self._limit:
                idle = [DecoderProcess()]
                self._shared += idle
            return min(idle or self._shared, key=lambda process: process.n_decoders)

    def private(self) -> DecoderProcess:
        """Return a new process for one decoder alone; blocks."""
        with self._lock:
            self.check_open()
            self._private = [process for process in self._private if process.is_alive]
            self._private.append(DecoderProcess())
            return self._private[-1]


class _RemoteDecoder:
    """A decoder in another process, which outlives that process."""

    def __init__(self, processes: DecoderProcesses, file: BoundedFile, fields: dict[str, Any]) -> None:
        self._processes = processes
        self._file = file
        self._fields = fields
        self._process: DecoderProcess | None = None
        self._number = next(_numbers)
        self._n_steps = 0
        self._is_suspect = False
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
        if process is None:
            return
        if self._is_suspect:
            process.kill()  # no other decoder lives in it
        else:
            process.close_decoder(self._number)

    def _alive(self, act: Callable[[DecoderProcess], T], channel: Channel) -> T:
        """Act with a process that has come as far as this decoder; where it dies, with another one.

        Raises:
            InvalidAudio: two processes have died of this file, or one of a hang.
        """
        while True:
            try:
                if self._process is None:
                    self._begin(channel)
                assert self._process is not None
                return act(self._process)
            except ProcessDied as died:
                self._process = None
                self._processes.check_open()
                if died.was_hanging:
                    log.warning("a file made the decoder hang; it is refused")
                    raise InvalidAudio(HANGS) from died
                if died.is_suspect and self._is_suspect:
                    log.warning("a file made the decoder crash twice; it is refused")
                    raise InvalidAudio(CRASHED) from died
                self._is_suspect |= died.is_suspect

    def _begin(self, channel: Channel) -> None:
        """Open the file in a process, and repeat the steps that were done before."""
        process = self._processes.private() if self._is_suspect else self._processes.shared()
        self._process = process
        process.add_decoder(self._number)
        try:
            opened = process.ask(Kind.OPEN, self._number, self._file, self._fields)[-1]
            self._check(opened)
            self.info = _info(opened.fields())
            for _ in range(self._n_steps):
                self._step(process, channel)
        except InvalidAudio:
            self.close()
            raise

    def _step(self, process: DecoderProcess, channel: Channel) -> list[Message]:
        return process.ask(Kind.STEP, self._number, self._file, {"channel": channel})

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
