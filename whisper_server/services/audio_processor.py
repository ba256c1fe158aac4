"""Bytes or a file -> blocks of float32 16 kHz mono, normalised; every limit on audio is here.

Owns the life of an open file and the order of the checks. Nothing is decoded before somebody pulls,
and never more than about 150 s are held, whatever the file's length or its header claims. Must not
know of speech, windows or HTTP.
"""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from whisper_server.core.errors import AudioTooLong, InvalidAudio
from whisper_server.core.types import SAMPLE_RATE, AudioLevels
from whisper_server.services.demuxer import NOT_AUDIO, audio_track, describe, libav_errors, open_container
from whisper_server.services.loudness import Meter, normalised
from whisper_server.services.nameless import NamelessFile
from whisper_server.services.resampler import Resampler, check_source

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

    from whisper_server.core.types import Samples
    from whisper_server.services.resampler import Channel

AudioSource: TypeAlias = bytes | bytearray | memoryview | Path | BinaryIO

BLOCK_SAMPLES = 30 * SAMPLE_RATE
MIN_SECONDS = 0.1  # of the hosted API
ROUNDING_S = 1e-6  # of a sum over hours of frames: audio of exactly the limit is within it

TOO_SHORT = "Audio file is too short. Minimum audio length is 0.1 seconds."  # as the hosted API words it


class AudioProcessor:
    """Opens audio within the configured limits; one instance serves all threads."""

    def __init__(self, max_bytes: int, max_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    def open(self, source: AudioSource, channel: int | None = None) -> AudioStream:
        """Read the header; blocks. A file object stays the caller's to close and is rewound.

        The stream has the sound of one channel, counted from 0, or a mix of all.

        Raises:
            PayloadTooLarge: the source has more bytes than the limit.
            InvalidAudio: it cannot be read, is no audio that we know, or has no sound.
        """
        opened = _binary(source)
        try:
            file = NamelessFile(opened, self._max_bytes, is_ours=opened is not source)
            if file.size_bytes == 0:
                raise InvalidAudio(TOO_SHORT)  # noqa: TRY301  what was opened is closed below
            return AudioStream(file, open_container(file), self._max_seconds, channel)
        except BaseException:
            if opened is not source:
                opened.close()
            raise


class AudioStream:
    """One open file: what it is, and its samples, once. A context manager; close it when done."""

    def __init__(
        self, file: NamelessFile, container: InputContainer, max_seconds: float, channel: int | None = None
    ) -> None:
        self._channel: Channel = "mix" if channel is None else channel
        self._stream = audio_track(container)
        self.info = describe(file, container, self._stream)
        check_source(self.info.sample_rate_hz, self.info.channels)
        self._file = file
        self._container = container
        self._max_seconds = max_seconds
        self._source_s = 0.0  # decoded so far, by the source's own clock
        self._meter = Meter()
        self._failure: Exception | None = None  # the first of libav's
        # Closing a container while another thread reads from it would crash the process.
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, _close, container, file)

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
        """Seconds decoded so far; the true duration once the blocks are exhausted."""
        return self._meter.levels().duration_s

    def levels(self) -> AudioLevels:
        """Measure what has been decoded so far, before normalisation."""
        return self._meter.levels()

    def blocks(self) -> Iterator[Samples]:
        """Decode: yield float32 [n], 0 < n <= BLOCK_SAMPLES, 16 kHz mono, -1..1; blocks; use it once.

        A file that breaks off, or is damaged here and there, gives what can be decoded of it.

        Raises:
            InvalidAudio: nothing can be decoded, or less than 0.1 s.
            AudioTooLong: the audio goes on for longer than the limit.
            PayloadTooLarge: a source that could not be measured goes on for longer than the limit.
        """
        return normalised(self._blocks())

    def planes(self) -> Iterator[Samples]:
        """Decode: yield float32 [n_channels, n] at 16 kHz, as loud as they are; use it instead of `blocks`.

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
        """Yield what `_decode` does, each piece under the lock that `close` waits for."""
        decoded = self._decode()
        while True:
            with self._lock:
                if not self._close.alive:
                    raise ValueError("I/O operation on closed audio")
                chunk = next(decoded, None)
            if chunk is None:
                return
            if len(chunk):
                yield chunk

    def _decode(self) -> Iterator[Samples]:
        resampler = Resampler(self._channel)
        errors = libav_errors()
        try:
            for frame in self._frames(errors):
                if not frame.samples:
                    continue
                check_source(frame.sample_rate, frame.layout.nb_channels)
                self._source_s += frame.samples / frame.sample_rate
                if self._source_s > self._max_seconds + ROUNDING_S:
                    raise AudioTooLong(
                        f"Audio is longer than {self._max_seconds:g} seconds, the limit (MAX_AUDIO_SECONDS)."
                    )
                yield from resampler.push(frame)
            yield from resampler.flush()
        except errors as error:
            raise InvalidAudio(NOT_AUDIO) from error
        self._file.check()
        if self._source_s < MIN_SECONDS - ROUNDING_S:
            is_broken = self._failure is not None and not self._source_s
            raise InvalidAudio(NOT_AUDIO if is_broken else TOO_SHORT) from self._failure

    def _frames(self, errors: tuple[type[Exception], ...]) -> Iterator[av.AudioFrame]:
        """Yield what can be decoded; a broken packet is left out."""
        for packet in self._packets(errors):
            try:
                frames = self._stream.codec_context.decode(packet)
            except errors as error:
                self._failure = self._failure or error
                continue
            yield from frames

    def _packets(self, errors: tuple[type[Exception], ...]) -> Iterator[Any]:
        """Yield the packets; a container that breaks off ends with None, which empties the decoder."""
        try:
            yield from self._container.demux(self._stream)
        except errors as error:
            self._failure = self._failure or error
            yield None


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


def _close(container: InputContainer, file: NamelessFile) -> None:
    container.close()
    file.close()
