"""The process that libav crashes in place of the server; runs with the standard library and PyAV only.

Owns no file: what it reads it asks the server for. One thread runs libav, for one decoder at a time; another
takes messages, and ends the process at once when the server has ended, whatever libav is doing. The system
ends it where a single call into libav spins beyond the file's budget, which is looked at between calls only.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import math
import os
import queue
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

from whisper_server.core.errors import InvalidAudio
from whisper_server.core.types import TrackChoice
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.budget import BASE_CPU_S, Budget, Spent
from whisper_server.services.audio.decoder import LibavDecoder
from whisper_server.services.audio.decoder_process.messages import Kind, Message, packed, receive, send
from whisper_server.services.audio.demuxer import TOO_HUNGRY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whisper_server.services.audio.resampler import Piece

STEP_BYTES = 1 << 20  # of samples between two answers: 16 s of one channel
READ_BYTES = 1 << 16  # asked for at once; twice what libav asks for
STEP_LIMIT_S = 30.0  # a step takes milliseconds; what takes this long is a hang
# Data that the process may have, where the system can limit it: 40 MB for itself, and 120 MB for a moment
# where it opens an MP4 of four hours at 60 frames/s with sound. Operators who allow longer ones get more,
# up to what as many packets take as `mp4_guard` lets pass. A file that finds no room is read again in a
# process of its own.
MEMORY_BYTES = 256 << 20
MOST_MEMORY_BYTES = 448 << 20
ANSWER_BYTES = 8 << 20  # beside them, to say that nothing is left
PACKET_BYTES = 80  # of an index, for a moment; 77 were seen
PACKETS_PER_S = 107  # 60 of pictures, 47 of AAC at 48 kHz
SLACK_S = 2.0  # of the processor, beyond the budget, before the system ends the process; it counts in seconds
STATM = Path("/proc/self/statm")
OOM_SCORE = Path("/proc/self/oom_score_adj")


class _Upload(io.RawIOBase):
    """A file that is with the server."""

    def __init__(self, child: _Child, decoder: int, size_bytes: int) -> None:
        self._child = child
        self._decoder = decoder
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        n_bytes = min(len(buffer), max(0, self._size_bytes - self._position))
        data = self._child.bytes_of(self._decoder, self._position, n_bytes) if n_bytes else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Child:
    """Answers one message after the other."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands = commands
        self._answers = answers
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._decoders: dict[int, LibavDecoder] = {}
        self._others: dict[int, Spent] = {}  # what other decoders of its request have spent
        self._pieces: dict[int, Iterator[Piece]] = {}
        self._limit_bytes = MEMORY_BYTES

    def run(self) -> None:
        Thread(target=self._listen, daemon=True).start()
        send(self._answers, Kind.READY)
        while True:
            message = self._inbox.get()
            faulthandler.dump_traceback_later(STEP_LIMIT_S, exit=True)  # not stopped by a native call
            _limit_time(self._left_s(message.decoder))
            _limit_memory(self._limit_bytes)
            failure = self._failure_of(message)
            if failure is not None:
                _limit_memory(self._limit_bytes + ANSWER_BYTES)
                self._answer(Kind.FAILED, message.decoder, error=failure[0], message=failure[1])
            faulthandler.cancel_dump_traceback_later()

    def _failure_of(self, message: Message) -> tuple[str, str] | None:
        """Handle a message; return the name and text of what went wrong, without what its frames hold."""
        try:
            self._handle(message)
        except InvalidAudio as error:
            return type(error).__name__, error.message
        except MemoryError:
            return InvalidAudio.__name__, TOO_HUNGRY
        except Exception as error:  # noqa: BLE001  (a bug of ours, which the server has to report)
            if isinstance(error, OSError) and error.errno == errno.ENOMEM:  # an import, say
                return InvalidAudio.__name__, TOO_HUNGRY
            return "", f"{type(error).__name__}: {error}"
        return None

    def _left_s(self, number: int) -> float:
        """Return the processor seconds that a request of this decoder may take."""
        decoder = self._decoders.get(number)
        return BASE_CPU_S + SLACK_S if decoder is None else decoder.work.left_s + SLACK_S

    def bytes_of(self, decoder: int, offset: int, n_bytes: int) -> bytes:
        """Ask the server for a part of the upload that it is about."""
        send(self._answers, Kind.READ, decoder, n_bytes, packed({"offset": offset}))
        return self._inbox.get().data

    def _listen(self) -> None:
        """Take messages in as they come; end the process when no more can."""
        try:
            while (message := receive(self._commands)) is not None:
                self._inbox.put(message)
        finally:  # also without memory: the other thread would wait for this one
            os._exit(0)

    def _handle(self, message: Message) -> None:
        if message.kind is Kind.OPEN:
            self._open(message.decoder, **message.fields())
        elif message.kind is Kind.STEP:
            self._step(message.decoder, **message.fields())
        elif message.kind is Kind.CLOSE:
            self._pieces.pop(message.decoder, None)
            self._others.pop(message.decoder, None)
            if (decoder := self._decoders.pop(message.decoder, None)) is not None:
                decoder.close()

    def _open(
        self,
        number: int,
        *,
        size_bytes: int,
        max_seconds: float,
        choice: dict[str, Any],
        spent: list[Any],
        has_checked_tables: bool,
    ) -> None:
        upload = io.BufferedReader(_Upload(self, number, size_bytes), READ_BYTES)
        file = BoundedFile(upload, size_bytes, is_ours=True)
        self._limit_bytes = memory_limit(max_seconds)
        _limit_memory(self._limit_bytes)
        room_bytes = self._limit_bytes - _data_bytes()
        budget = Budget()
        budget.has_checked_tables = has_checked_tables
        self._others[number] = budget.share()
        self._others[number].set(*spent)
        decoder = self._decoders[number] = LibavDecoder(file, max_seconds, TrackChoice(**choice), budget)
        is_short_enough = (decoder.info.header_duration_s or 0.0) <= max_seconds  # else that is what to say
        if is_short_enough and decoder.cut_index_packets * PACKET_BYTES > room_bytes:
            raise MemoryError
        self._answer(Kind.OPENED, number, info=asdict(decoder.info))

    def _step(self, number: int, channel: Any, spent: list[Any]) -> None:
        """Send the next pieces; an error comes after those before it."""
        self._others[number].set(*spent)
        pieces = self._pieces.get(number)
        if pieces is None:
            pieces = self._pieces[number] = self._decoders[number].pieces(channel)
        n_bytes = 0
        while n_bytes < STEP_BYTES:
            piece = next(pieces, None)
            if piece is None:
                self._answer(Kind.END, number)
                return
            send(self._answers, Kind.PIECE, number, piece.n_channels, piece.data)
            n_bytes += len(piece.data)
        self._answer(Kind.MORE, number)

    def _answer(self, kind: Kind, number: int, **fields: Any) -> None:
        """Send what came of a request, with the state."""
        decoder = self._decoders.get(number)
        spent = decoder.work.spent if decoder is not None else Spent()
        state = {"spent": spent.fields(), "resident_bytes": _resident_bytes()}
        send(self._answers, kind, number, data=packed({**state, **fields}))


def main() -> None:
    """Be the child: messages come in at standard input and leave at standard output."""
    # The server decides when the child ends: a signal to the whole group is for the server.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)  # what a library prints must not get between the messages
    load_libav()
    _go_first()
    _limit_memory(MEMORY_BYTES)
    if hasattr(signal, "SIGXCPU"):
        faulthandler.register(signal.SIGXCPU, all_threads=False, chain=True)  # tells where, and ends
    with suppress(BrokenPipeError):
        _Child(sys.stdin.buffer, answers).run()
    os._exit(0)


def load_libav() -> None:
    """Import all of PyAV that a file may need; in the middle of one there may be no memory for it."""
    import av.filter  # noqa: PLC0415  (not when this module is)
    import av.subtitles.codeccontext  # noqa: PLC0415
    import av.subtitles.stream  # noqa: F401, PLC0415


def memory_limit(max_seconds: float) -> int:
    """Return how many bytes of data a process may have where audio may be so long."""
    index_bytes = int(max_seconds * PACKETS_PER_S * PACKET_BYTES)
    return min(max(MEMORY_BYTES, (64 << 20) + index_bytes), MOST_MEMORY_BYTES)


def _go_first() -> None:
    """Let the system end this process and not the server, where the machine has no memory; leave no core."""
    with suppress(OSError):  # Linux has it
        OOM_SCORE.write_text("1000")
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415  (not on Windows)

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_memory(limit_bytes: int) -> None:
    """Let an allocation fail, and not the machine, where a file makes libav take too much."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415  (not on Windows)

        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, resource.RLIM_INFINITY))


def _limit_time(left_s: float) -> None:
    """Let the system end this process after so many more seconds of the processor."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415  (not on Windows)

        limit_s = math.ceil(time.process_time() + max(0.0, left_s))
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))


def _resident_bytes() -> int:
    """Return what this process has in memory; 0 where the system does not tell."""
    return _pages(1)


def _data_bytes() -> int:
    """Return what counts against the limit on memory; 0 where the system does not tell."""
    return _pages(5)


def _pages(column: int) -> int:
    try:
        return int(STATM.read_bytes().split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main()
