"""Bytes or a file -> blocks of float32 16 kHz mono, normalised; every limit on audio is here.

Owns the life of an open file and the order of the checks. Samples are read when they are pulled, and never
more than about 150 s are held, whatever the file's length or its header claims. Must not know of speech,
windows or HTTP.
"""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from whisper_server.core.errors import AudioTooLong, InvalidAudio
from whisper_server.core.types import SAMPLE_RATE, AudioInfo, AudioLevels, TrackChoice
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.budget import Budget
from whisper_server.services.audio.decoder import TOO_SHORT, Decoder, LibavDecoder
from whisper_server.services.audio.downmix import Downmix
from whisper_server.services.audio.loudness import Meter, normalised, peak_of
from whisper_server.services.audio.tracks import listening_order

if TYPE_CHECKING:
    from whisper_server.core.types import Samples
    from whisper_server.services.audio.resampler import Channel, Piece

AudioSource: TypeAlias = bytes | bytearray | memoryview | Path | BinaryIO
# A file, the longest audio in seconds, the track, and what the request may spend.
OpenDecoder: TypeAlias = Callable[[BoundedFile, float, TrackChoice, Budget], Decoder]

BLOCK_SAMPLES = 30 * SAMPLE_RATE
MAX_TRIED = 8  # tracks that are searched for sound; cameras record as many, with microphones on two of them
SILENT_PEAK = 1e-4  # -80 dBFS: below the noise of any microphone, above what codecs make of digital zero


class AudioProcessor:
    """Opens audio within the configured limits; one instance serves all threads."""

    def __init__(self, max_bytes: int, max_seconds: float, open_decoder: OpenDecoder = LibavDecoder) -> None:
        """Take `open_decoder`, which says in what process libav works."""
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._open_decoder = open_decoder

    def open(
        self,
        source: AudioSource,
        channel: int | None = None,
        choice: TrackChoice | None = None,
        budget: Budget | None = None,
    ) -> AudioStream:
        """Read the header; blocks. A file object stays the caller's to close and is rewound.

        The stream has the samples of one channel, counted from 0, or a mix of all. `budget` is that of
        another stream of the same source, for the same request.

        Raises:
            PayloadTooLarge: the source has more bytes than the limit.
            InvalidAudio: it cannot be read, is no audio that we know, or has no audio track.
            UnknownTrack: it has no audio track of the number that was chosen.
        """
        opened = _binary(source)
        try:
            file = BoundedFile(opened, self._max_bytes, is_ours=opened is not source)
            if file.size_bytes == 0:
                raise InvalidAudio(TOO_SHORT)  # noqa: TRY301  what was opened is closed below
            budget = budget or Budget()
            return AudioStream(file, self._opener(file, budget), choice or TrackChoice(), budget, channel)
        except BaseException:
            if opened is not source:
                opened.close()
            raise

    def _opener(self, file: BoundedFile, budget: Budget) -> Callable[[TrackChoice], Decoder]:
        return lambda choice: self._open_decoder(file, self._max_seconds, choice, budget)


class AudioStream:
    """One open file: what it is, and its samples, once. A context manager; close it when done."""

    def __init__(
        self,
        file: BoundedFile,
        open_decoder: Callable[[TrackChoice], Decoder],
        choice: TrackChoice,
        budget: Budget,
        channel: int | None = None,
    ) -> None:
        self.budget = budget
        self._channel: Channel = "mix" if channel is None else channel
        self._open_decoder = open_decoder
        self._opened = _Opened(file, open_decoder(choice))
        # A file that is read once is heard as it is.
        candidates = listening_order(self.info.tracks, choice)[:MAX_TRIED] if file.seekable() else []
        self._candidates = candidates if len(candidates) > 1 else []
        self._meter = Meter()
        # Closing a decoder while another thread reads from it would crash the process that libav is in.
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._close = weakref.finalize(self, self._opened.close)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back, now or after the step that is running; idempotent, and never blocks."""
        self._is_closing.set()
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Keep the decoder open in the block."""
        with self._lock:
            if self._is_closing.is_set():
                raise ValueError("I/O operation on closed audio")
            yield
        if self._is_closing.is_set():
            self.close()

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself, and of the track that is heard."""
        return self._opened.decoder.info

    async def ready(self) -> None:
        """Return at once: what reads a file never waits for its sender."""

    def settle(self) -> Generator[None, None, None]:
        """Look for sound, where there are several tracks: the first of them that is not silent is heard.

        Yields after each second, to let others have a turn; what reads the samples does it if need be. A
        file of one track, or one whose track was named, is left alone.

        Raises:
            InvalidAudio: no track can be decoded.
        """
        candidates, self._candidates = self._candidates, []
        for number in candidates:
            if (yield from self._has_sound(number)):
                self._reopen(number)
                return
        if candidates:
            self._reopen(candidates[0])

    @property
    def position_s(self) -> float:
        """Seconds read so far; the true duration once the blocks are exhausted."""
        return self._meter.levels().duration_s

    def levels(self) -> AudioLevels:
        """Measure what has been read so far, before normalisation."""
        return self._meter.levels()

    def blocks(self) -> Iterator[Samples]:
        """Yield float32 [n], 0 < n <= BLOCK_SAMPLES, 16 kHz mono, -1..1; blocks; use it once.

        A file that breaks off, or is damaged here and there, gives what can be read of it.

        Raises:
            InvalidAudio: nothing can be decoded, or less than 0.1 s.
            AudioTooLong: the audio goes on for longer than the limit.
            PayloadTooLarge: a source that could not be measured goes on for longer than the limit.
        """
        return normalised(self._blocks())

    def planes(self) -> Iterator[Samples]:
        """Yield float32 [n_channels, n] at 16 kHz, as loud as they are; use it instead of `blocks`.

        Raises what `blocks` does.
        """
        self._channel = "each"
        return self._chunks()

    def _blocks(self) -> Iterator[Samples]:
        chunks: list[Samples] = []
        n_samples = 0
        for chunk in self._chunks():
            self._meter.add(chunk)
            chunks.append(chunk)
            n_samples += len(chunk)
            if n_samples >= BLOCK_SAMPLES:
                joined = np.concatenate(chunks)
                yield joined[:BLOCK_SAMPLES].copy()
                chunks = [joined[BLOCK_SAMPLES:].copy()]
                n_samples = len(chunks[0])
        if n_samples:
            yield np.concatenate(chunks)

    def _chunks(self) -> Iterator[Samples]:
        """Yield the samples of each piece, taken under the lock that `close` waits for."""
        for _ in self.settle():
            pass
        if self._channel == "mix":
            yield from _mixed(self._pieces("mix"))
            return
        for piece in self._pieces(self._channel):
            yield _samples(piece, side_by_side=self._channel == "each")

    def _pieces(self, channel: Channel) -> Iterator[Piece]:
        pieces = self._opened.decoder.pieces(channel)
        while True:
            with self._reading():
                piece = next(pieces, None)
            if piece is None:
                return
            if piece.data:
                yield piece

    def _has_sound(self, number: int) -> Generator[None, None, bool]:
        """Read a track up to its first sound; one in which nothing can be decoded has none."""
        try:
            if number != self.info.track:
                self._reopen(number)
            for piece in self._pieces("mix"):
                if peak_of(_planes(piece)[0]) > SILENT_PEAK:
                    return True
                yield
        except AudioTooLong:
            raise
        except InvalidAudio:
            return False
        return False

    def _reopen(self, number: int) -> None:
        """Begin again with this track."""
        with self._reading():
            self._opened.decoder.close()
            self._opened.decoder = self._open_decoder(TrackChoice(number))


class _Opened:
    """What a stream has to close, whichever decoder it has by then."""

    def __init__(self, file: BoundedFile, decoder: Decoder) -> None:
        self.file = file
        self.decoder = decoder

    def close(self) -> None:
        self.decoder.close()
        self.file.close()


def _mixed(pieces: Iterator[Piece]) -> Iterator[Samples]:
    """Yield float32 [n]; one channel of several while their mix cancels."""
    downmix: Downmix | None = None
    for piece in pieces:
        planes, gains = _planes(piece)
        if len(gains):
            if downmix is not None and downmix.n_channels != len(gains):  # the layout has changed
                yield from downmix.finish()
                downmix = None
            downmix = downmix or Downmix(gains)
            yield from downmix.add(planes)
        elif downmix is not None:  # silence in a gap, or a stretch of mono
            yield from downmix.add(np.repeat(planes, 1 + downmix.n_channels, axis=0))
        else:
            yield planes[0]
    if downmix is not None:
        yield from downmix.finish()


def _planes(piece: Piece) -> tuple[Samples, Samples]:
    """Return a mix and the channels beside it, float32 [1 + c, n], and their gains, [c]; both read-only."""
    samples = _samples(piece, side_by_side=False)
    n_beside = piece.n_channels - 1
    n = (len(samples) - n_beside) // piece.n_channels
    mix, beside, gains = np.split(samples, [n, n + n * n_beside])
    return np.vstack([mix, beside.reshape(n, n_beside).T]), gains


def _binary(source: AudioSource) -> BinaryIO:
    """Return the source as a file object.

    Raises:
        InvalidAudio: the path cannot be opened.
    """
    if isinstance(source, Path):
        try:
            return source.open("rb")
        except OSError as error:
            raise InvalidAudio(f"The file cannot be read: {error.strerror}.") from error
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return source


def _samples(piece: Piece, *, side_by_side: bool) -> Samples:
    """Return float32 [n], or [n_channels, n], read-only; what is no number becomes silence."""
    samples: Samples = np.frombuffer(piece.data, np.float32)
    if side_by_side:
        samples = samples.reshape(-1, piece.n_channels).T
    return samples if np.isfinite(samples).all() else np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
