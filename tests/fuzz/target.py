"""One input into the decoder: audio, or an error that tells the client what is wrong; else a finding."""

from __future__ import annotations

import io

import numpy as np

from whisper_server.core.errors import InvalidAudio, PayloadTooLarge
from whisper_server.services.audio_processor import BLOCK_SAMPLES, AudioProcessor

MAX_SECONDS = 60
MAX_BYTES = 1 << 20
# Three times as often as a number of 16 bits can ask for: that many reads of nothing, at the end of the file,
# are the most that a forged count of parts has led to.
MAX_READS = 200_000
PROCESSOR = AudioProcessor(MAX_BYTES, MAX_SECONDS)


class Finding(Exception):
    """The decoder did what it must not do."""


class CountedFile(io.BytesIO):
    """An upload that notices when somebody reads it for ever: the budget of a decode, without a clock."""

    n_reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.n_reads += 1
        if self.n_reads > MAX_READS:
            raise OSError("read too often")  # seems to be the end of the file, so a loop ends
        return super().read(size)


def outcome(data: bytes, index: int) -> str:
    """Decode it in the way whose turn it is; return "audio" or the error's name.

    Raises:
        Finding: samples or a message that must not be.
        Exception: any other error is a finding too.
    """
    file = CountedFile(data)
    try:
        with PROCESSOR.open(file, channel=0 if index % 8 == 7 else None) as stream:
            pieces = stream.planes() if index % 4 == 3 else stream.blocks()
            n_samples = sum(_checked(piece) for piece in pieces)
            if n_samples > (MAX_SECONDS + 1) * 16_000:
                raise Finding(f"{n_samples} samples")
    except (InvalidAudio, PayloadTooLarge) as error:
        if not error.message or len(error.message) > 500 or not error.message.isprintable():
            raise Finding(f"the message {error.message[:200]!r}") from error
        if file.n_reads <= MAX_READS:
            return type(error).__name__
    if file.n_reads > MAX_READS:
        raise Finding(f"{file.n_reads} reads")
    return "audio"


def _checked(samples: np.ndarray) -> int:
    if samples.dtype != np.float32 or not np.isfinite(samples).all():
        raise Finding("samples that are no numbers")
    if samples.ndim == 1 and np.abs(samples).max(initial=0) > 1:
        raise Finding("samples beyond full scale")
    if samples.shape[-1] > BLOCK_SAMPLES:
        raise Finding(f"{samples.shape} samples at once")
    return samples.shape[-1]
