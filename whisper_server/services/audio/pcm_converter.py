"""Raw samples of a live source, in pieces of any size -> float32 at 16 kHz, as soon as they can be known.

Uploads go through `decoder`; here there is no container, and each piece is answered with what it completes.
The sample rate is converted by the same libswresample with the same settings, so that a recording sounds the
same whether it is uploaded or played into a session. Must not know what the samples are for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from whisper_server.core.types import SAMPLE_RATE

if TYPE_CHECKING:
    from av.filter import Graph
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples

Encoding = Literal["pcm16", "mulaw", "alaw"]

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
_FULL_SCALE = 32_768.0


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """How mono samples are written: signed 16-bit little-endian, or a byte each in one of G.711's laws."""

    encoding: Encoding = "pcm16"
    rate_hz: int = 24_000


class PcmConverter:
    """Converts one stream; carries halves of samples and the resampler's delay from piece to piece."""

    def __init__(self, source: PcmFormat) -> None:
        self._source = source
        self._rest = b""  # the first byte of a sample whose second one has not come yet
        self._graph: Graph | None = None

    def push(self, data: bytes) -> Samples:
        """Return float32 [n] at 16 kHz, n >= 0: what can be known now; the resampler is 1 ms behind."""
        if self._source.encoding == "pcm16":
            data = self._rest + data
            n_whole = len(data) & ~1
            data, self._rest = data[:n_whole], data[n_whole:]
            samples = np.frombuffer(data, "<i2")
        else:
            samples = _g711(self._source.encoding)[np.frombuffer(data, np.uint8)]
        if self._source.rate_hz == SAMPLE_RATE:
            return normal(samples)
        return self._resampled(samples)

    def finish(self) -> Samples:
        """Return the last samples, which the resampler held back; the next piece starts afresh."""
        graph, self._graph, self._rest = self._graph, None, b""
        if graph is None:
            return np.zeros(0, np.float32)
        graph.push(None)
        return _pulled(graph)

    def _resampled(self, samples: NDArray[np.int16]) -> Samples:
        if not len(samples):
            return np.zeros(0, np.float32)
        import av  # noqa: PLC0415  (PyAV is loaded with the first session)

        from whisper_server.services.audio.resampler import live_graph  # noqa: PLC0415

        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = self._source.rate_hz
        frame.pts = None
        if self._graph is None:
            self._graph = live_graph(frame)
        self._graph.push(frame)
        return _pulled(self._graph)


def normal(samples: NDArray[np.int16]) -> Samples:
    """Return 16-bit samples as float32 [n], -1..1; a copy."""
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _pulled(graph: Graph) -> Samples:
    """Return all that a graph has ready."""
    found: list[Samples] = []
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):  # libav's "give me more" and "that was all"
            return np.concatenate(found) if found else np.zeros(0, np.float32)
        found.append(np.frombuffer(memoryview(frame.planes[0])[: 4 * frame.samples], np.float32).copy())  # type: ignore[union-attr]


@functools.lru_cache(maxsize=2)
def _g711(law: Encoding) -> NDArray[np.int16]:
    """Return the 16-bit sample of each byte."""
    decode = _mulaw if law == "mulaw" else _alaw
    return np.array([decode(byte) for byte in range(256)], np.int16)


def _mulaw(byte: int) -> int:
    """Expand one byte of ITU-T G.711's mu-law; the bias of 0x84 is the standard's 33 in 14 bits."""
    byte ^= 0xFF
    magnitude = (((byte & 0x0F) << 3) + 0x84) << (byte >> 4 & 0x07)
    return 0x84 - magnitude if byte & 0x80 else magnitude - 0x84


def _alaw(byte: int) -> int:
    """Expand one byte of ITU-T G.711's A-law, whose even bits are inverted on the line."""
    byte ^= 0x55
    exponent, mantissa = byte >> 4 & 0x07, byte & 0x0F
    magnitude = (mantissa << 4) + 8 if exponent == 0 else ((mantissa << 4) + 0x108) << (exponent - 1)
    return magnitude if byte & 0x80 else -magnitude
