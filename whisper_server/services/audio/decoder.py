"""One open file, as libav reads it: what it is, and its samples, piece by piece.

Owns libav's objects and the limit on the length. Runs in the server or in a process of its own
(`decoder_process`), where NumPy would only cost time: samples are bytes here. Must not know of loudness,
blocks or HTTP, nor by what rule a track is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from whisper_server.core.errors import AudioTooLong, InvalidAudio
from whisper_server.core.types import SAMPLE_RATE, TrackChoice
from whisper_server.services.audio.budget import Budget, Work
from whisper_server.services.audio.demuxer import (
    NOT_AUDIO,
    TOO_HUNGRY,
    describe,
    libav_errors,
    open_container,
    start_of,
    stream_of,
    tracks_of,
)
from whisper_server.services.audio.mp4_guard import check_mp4_tables
from whisper_server.services.audio.resampler import Resampler, check_source
from whisper_server.services.audio.timeline import COUNTED, Timeline
from whisper_server.services.audio.tracks import listening_order

if TYPE_CHECKING:
    import av

    from whisper_server.core.types import AudioInfo
    from whisper_server.services.audio.bounded_file import BoundedFile
    from whisper_server.services.audio.resampler import Channel, Piece

MIN_SECONDS = 0.1  # of the hosted API
ROUNDING_S = 1e-6  # of a sum over hours of frames: audio of exactly the limit is within it
MISSING_S = 10.0  # of sound behind the last packet in an index; it takes no second

TOO_SHORT = "Audio file is too short. Minimum audio length is 0.1 seconds."  # as the hosted API words it


class Decoder(Protocol):
    """An open file and libav, in this process or in another one."""

    info: AudioInfo

    def pieces(self, channel: Channel) -> Iterator[Piece]:
        """Yield the samples in order, about a second each; blocks; use it once.

        The first sample is that of the container's first moment: a track that starts later begins with
        silence, and a gap in its timestamps is silence too.

        Raises:
            InvalidAudio: nothing can be decoded, or less than 0.1 s, or the work is more than the budget.
            AudioTooLong: the audio goes on for longer than the limit.
            PayloadTooLarge: a source that could not be measured goes on for longer than the limit.
        """
        ...

    def close(self) -> None:
        """Let libav's objects go; idempotent. Never while `pieces` runs on another thread."""
        ...


class LibavDecoder:
    """Runs libav in this process, on the caller's thread."""

    def __init__(
        self,
        file: BoundedFile,
        max_seconds: float,
        choice: TrackChoice | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Read the header; blocks. The file stays the caller's to close; the budget is that of its request.

        Raises:
            InvalidAudio: no audio that we know, or a header that claims the absurd.
            UnknownTrack: the file has no such track.
        """
        self._file = file
        self._max_seconds = max_seconds
        self._sound_s = 0.0  # read so far, by the source's own clock
        self._failure: Exception | None = None  # the first of libav's
        budget = budget or Budget()
        self.work = Work(budget, file.size_bytes)
        with self.work.measured():
            if not budget.has_checked_tables:
                check_mp4_tables(file)
            budget.has_checked_tables = True
            self._container = open_container(file)
            try:
                tracks = tracks_of(self._container)
                number = listening_order(tracks, choice or TrackChoice())[0]
                self._start_s = start_of(self._container)
                self._stream = stream_of(self._container, number)
                self.info = describe(file, self._container, tracks, number)
                check_source(self.info.sample_rate_hz, self.info.channels)
            except BaseException:
                self._container.close()
                raise

    @property
    def cut_index_packets(self) -> int:
        """How many packets the track of an MP4 has whose index ends before them; else 0.

        Where libav finds no memory for the index, it makes a shorter one and says nothing.
        """
        stream, index = self._stream, self._stream.index_entries
        if "mp4" not in self.info.container or not stream.duration or not stream.time_base or not len(index):
            return 0
        missing = (stream.start_time or 0) + stream.duration - index[-1].timestamp
        return stream.frames if missing * stream.time_base > MISSING_S else 0

    def close(self) -> None:
        """Let libav's objects go; idempotent."""
        self._container.close()

    def pieces(self, channel: Channel) -> Iterator[Piece]:
        """Yield the samples; see `Decoder`. What is damaged here and there is left out."""
        pieces = self._pieces(channel)
        while True:
            with self.work.measured():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _pieces(self, channel: Channel) -> Iterator[Piece]:
        resampler = Resampler(channel, self.work.graph)
        errors = libav_errors()
        try:
            yield from self._timed(resampler, errors)
            yield from resampler.flush()
        except MemoryError as error:
            raise InvalidAudio(TOO_HUNGRY) from error
        except errors as error:
            raise InvalidAudio(NOT_AUDIO) from error
        self._file.check()
        if self._sound_s < MIN_SECONDS - ROUNDING_S:
            is_broken = self._failure is not None and not self._sound_s
            raise InvalidAudio(NOT_AUDIO if is_broken else TOO_SHORT) from self._failure

    def _timed(self, resampler: Resampler, errors: tuple[type[Exception], ...]) -> Iterator[Piece]:
        """Yield the samples of all frames, each at its time on the file's clock."""
        timeline = Timeline(self._start_s, self.info.container)
        is_timed = self.info.container not in COUNTED
        for frame in self._frames(errors):
            if not frame.samples:
                continue
            check_source(frame.sample_rate, frame.layout.nb_channels)
            duration_s = frame.samples / frame.sample_rate
            self._sound_s += duration_s
            self.work.spent.sound_s += duration_s
            silence_s = timeline.silence_before(frame.time) if is_timed else 0.0
            timeline.add(duration_s)
            if timeline.position_s > self._max_seconds + ROUNDING_S:  # before the silence is made
                raise AudioTooLong(
                    f"Audio is longer than {self._max_seconds:g} seconds, the limit (MAX_AUDIO_SECONDS)."
                )
            if silence_s:
                yield from resampler.flush()
                until = round((timeline.position_s - duration_s) * SAMPLE_RATE)
                yield from resampler.silence(until, frame.layout.nb_channels)
            yield from resampler.push(frame)

    def _frames(self, errors: tuple[type[Exception], ...]) -> Iterator[av.AudioFrame]:
        """Yield what can be decoded; a broken packet is left out."""
        for packet in self._packets(errors):
            frames: list[av.AudioFrame] = []
            try:
                frames = self._stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except errors as error:
                self._failure = self._failure or error
            if packet is not None:
                if self._file.size_bytes is None:
                    self.work.file_bytes = self._file.tell()
                self.work.packet(packet.size, sum(frame.samples for frame in frames))
            yield from frames

    def _packets(self, errors: tuple[type[Exception], ...]) -> Iterator[Any]:
        """Yield the packets; a container that breaks off ends with None, which empties the decoder.

        PyAV raises IndexError at the end of a file in which further tracks turned up on the way.
        """
        broken: tuple[type[Exception], ...] = (*errors, IndexError)
        try:
            yield from self._container.demux(self._stream)
        except MemoryError:
            raise
        except broken as error:
            self._failure = self._failure or error
            yield None
