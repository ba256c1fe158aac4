"""Samples without a header, while they come in: s16le, 16 kHz, mono, pulled from whatever sends them.

Owns the wait for the next block, the limit on the length, and the buffer between them: one look-ahead of
loudness and one block, however long the recording is. The sender is asked for bytes only when the pipeline
wants a block, so a slow device slows the sender down and nothing piles up. Must not know what sends them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.errors import AudioTooLong, InvalidAudio
from whisper_server.core.types import SAMPLE_RATE, AudioInfo, AudioLevels
from whisper_server.services.audio.decoder import MIN_SECONDS, TOO_SHORT
from whisper_server.services.audio.loudness import LOOK_AHEAD_BLOCKS, Meter, normalised
from whisper_server.services.audio.pcm_converter import normal

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

SAMPLE_BYTES = 2
BYTES_PER_SECOND = SAMPLE_RATE * SAMPLE_BYTES  # 32,000
# With this and the look-ahead of files, the samples are those of the same sound in a WAV file.
FILE_BLOCK_S = 30.0


class PcmStream:
    """One recording that comes in as raw samples; heard once.

    Before each step of what pulls `blocks`, await `ready`: after it, one more block can be pulled without
    waiting. The two never run at the same time. Close the iterator of the bytes yourself.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        max_seconds: float,
        *,
        claimed_s: float | None = None,
        block_s: float = FILE_BLOCK_S,
        look_ahead: int = LOOK_AHEAD_BLOCKS,
    ) -> None:
        """Take the bytes, cut anywhere; `claimed_s` is how long the sender says they will be.

        The gain follows the highest peak so far, `look_ahead` blocks included: see `loudness.normalised`.
        """
        self.info = AudioInfo("pcm", "s16le", "pcm_s16le", SAMPLE_RATE, 1, None, claimed_s)
        self._chunks = chunks
        self._max_seconds = max_seconds
        self._block_bytes = int(block_s * SAMPLE_RATE) * SAMPLE_BYTES
        self._look_ahead = look_ahead
        self._buffer = bytearray()
        self._received_bytes = 0
        self._has_begun = False  # the first block was pulled, and its look-ahead with it
        self._has_ended = False
        self._meter = Meter()

    def close(self) -> None:
        """Hear nothing more; may be called twice, and from any thread."""
        self._has_ended = True

    @property
    def position_s(self) -> float:
        """Seconds read so far; the true duration once the blocks are exhausted."""
        return self._meter.levels().duration_s

    def levels(self) -> AudioLevels:
        """Measure what has been read so far, before normalisation."""
        return self._meter.levels()

    async def ready(self) -> None:
        """Wait until the next block is there, or the end is.

        Raises:
            AudioTooLong: more than the limit has come in.
            InvalidAudio: it has ended before 0.1 s.

        What the iterator of the bytes raises is raised here.
        """
        wanted = self._block_bytes * (1 if self._has_begun else self._look_ahead + 1)
        while not self._has_ended and len(self._buffer) < wanted:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._has_ended = True
                if self._received_bytes < MIN_SECONDS * BYTES_PER_SECOND:
                    raise InvalidAudio(TOO_SHORT)
                return
            self._buffer += chunk
            self._received_bytes += len(chunk)
            if self._received_bytes > self._max_seconds * BYTES_PER_SECOND:
                raise AudioTooLong(
                    f"Audio is longer than {self._max_seconds:g} seconds, the limit (MAX_AUDIO_SECONDS)."
                )

    def settle(self) -> Iterator[None]:
        """Yield nothing: there is one track."""
        return iter(())

    def blocks(self) -> Iterator[Samples]:
        """Yield float32 [n], 0 < n <= a block, 16 kHz mono, -1..1, as `AudioStream.blocks` does; once."""
        return normalised(self._blocks(), self._look_ahead)

    def _blocks(self) -> Iterator[Samples]:
        while len(self._buffer) >= SAMPLE_BYTES:
            self._has_begun = True
            n_bytes = min(self._block_bytes, len(self._buffer) // SAMPLE_BYTES * SAMPLE_BYTES)
            samples = normal(np.frombuffer(bytes(self._buffer[:n_bytes]), "<i2"))
            del self._buffer[:n_bytes]
            self._meter.add(samples)
            yield samples
