"""Speech that takes several windows."""

from __future__ import annotations

import numpy as np

from tests.conftest import all_samples
from tests.support.audio_files import wav_bytes
from whisper_server.services.audio_processor import AudioProcessor


def speak_for(seconds: int) -> bytes:
    """Return a file of speech that goes on for so long, or a little longer."""
    said = next(sample for sample in all_samples() if sample.name == "en-plain-005.flac")
    processor = AudioProcessor(max_bytes=1 << 24, max_seconds=600)
    with processor.open(said.data) as stream:
        samples = np.concatenate(list(stream.blocks()))
    samples = np.tile(samples, 1 + int(seconds * 16_000 / len(samples)))
    return wav_bytes((samples * 32767).astype("<i2").tobytes())
