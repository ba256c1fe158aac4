"""What a client appends -> samples at 16 kHz, and the probability of a voice in each of their frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.validators import decode_base64
from whisper_server.services.audio.pcm_converter import PcmConverter, PcmFormat
from whisper_server.services.speech.silero import Silero

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

MAX_APPEND_BYTES = 15 << 20  # of the hosted API, for one event


class SoundInput:
    """Carries what is between two pieces: half samples, the resampler's and voice detection's state."""

    def __init__(self) -> None:
        self._format = PcmFormat()
        self._stream = PcmConverter(self._format)
        self._silero: Silero | None = None

    def hear(self, audio: object, source: PcmFormat) -> tuple[Samples, list[float]]:
        """Return float32 [n] at 16 kHz and the probabilities of the frames they complete; blocks.

        Raises:
            InvalidRequest: it is no base64.
            PayloadTooLarge: it is more than one event may bring.
        """
        if not isinstance(audio, str | bytes):
            raise InvalidRequest("Send the samples in 'audio', as base64.", param="audio")
        samples = self._stream_of(source, decode_base64(audio, MAX_APPEND_BYTES))
        self._silero = self._silero or Silero()
        return samples, list(self._silero.probabilities(samples))

    def _stream_of(self, source: PcmFormat, data: bytes) -> Samples:
        if source == self._format:
            return self._stream.push(data)
        rest = self._stream.finish()
        self._format, self._stream = source, PcmConverter(source)
        return np.concatenate([rest, self._stream.push(data)])
