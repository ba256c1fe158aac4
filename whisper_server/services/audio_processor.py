"""Bytes or a file -> blocks of float32 16 kHz mono, normalised; every limit on audio is here.

Owns the life of an open file and the order of the checks. Samples are read when they are pulled, and never
more than about 150 s are held, whatever the file's length or its header claims. Must not know of speech,
windows or HTTP.
"""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from whisper_server.core.errors import InvalidAudio
from whisper_server.core.types import SAMPLE_RATE, AudioLevels
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.decoder import TOO_SHORT, Decoder, LibavDecoder
from whisper_server.services.audio.loudness import Meter, normalised
from whisper_server.services.audio.mp4_guard import check_mp4_tables

if TYPE_CHECKING:
    from whisper_server.core.types import Samples
    from whisper_server.services.audio.resampler import Channel, Piece

AudioSource: TypeAlias = bytes | bytearray | memoryview | Path | BinaryIO
OpenDecoder: TypeAlias = Callable[[BoundedFile, float], Decoder]  # a file and the longest audio, in seconds

BLOCK_SAMPLES = 30 * SAMPLE_RATE


class AudioProcessor:
    """Opens audio within the configured limits; one instance serves all threads."""

    def __init__(self, max_bytes: int, max_seconds: float, open_decoder: OpenDecoder = LibavDecoder) -> None:
        """Take `open_decoder`, which says in what process libav works."""
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._open_decoder = open_decoder

    def open(self, source: AudioSource, channel: int | None = None) -> AudioStream:
        """Read the header; blocks. A file object stays the caller's to close and is rewound.

        The stream has the samples of one channel, counted from 0, or a mix of all.

        Raises:
            PayloadTooLarge: the source has more bytes than the limit.
            InvalidAudio: it cannot be read, is no audio that we know, or has no audio track.
        """
        opened = _binary(source)
        try:
            file = BoundedFile(opened, self._max_bytes, is_ours=opened is not source)
            if file.size_bytes == 0:
                raise InvalidAudio(TOO_SHORT)  # noqa: TRY301  what was opened is closed below
            check_mp4_tables(file)
            return AudioStream(file, self._open_decoder(file, self._max_seconds), channel)
        except BaseException:
            if opened is not source:
                opened.close()
            raise


class AudioStream:
    """One open file: what it is, and its samples, once. A context manager; close it when done."""

    def __init__(self, file: BoundedFile, decoder: Decoder, channel: int | None = None) -> None:
        self._channel: Channel = "mix" if channel is None else channel
        self.info = decoder.info
        self._decoder = decoder
        self._meter = Meter()
        # Closing a decoder while another thread reads from it would crash the process that libav is in.
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, _close, decoder, file)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; may be called twice, and from any thread."""
        with self._lock:
            self._close()

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
        pieces = self._decoder.pieces(self._channel)
        while True:
            with self._lock:
                if not self._close.alive:
                    raise ValueError("I/O operation on closed audio")
                piece = next(pieces, None)
            if piece is None:
                return
            if piece.data:
                yield _samples(piece, side_by_side=self._channel == "each")


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


def _close(decoder: Decoder, file: BoundedFile) -> None:
    decoder.close()
    file.close()
