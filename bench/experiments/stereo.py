"""What it costs to notice that the sides of a stereo recording cancel: processor time per second of audio.

    python -m bench.experiments.stereo [--runs 9]

Two minutes of noise, read as the server reads them, in this process; with both sides beside the mix, and with
the mix alone, by turns.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from bench.figures import Spread, table
from whisper_server.services.audio import decoder
from whisper_server.services.audio.resampler import Resampler
from whisper_server.services.audio_processor import AudioProcessor

SECONDS = 120
FILES = (("wav", "pcm_s16le", 16_000), ("wav", "pcm_s16le", 48_000), ("matroska", "aac", 48_000))
PROCESSOR = AudioProcessor(1 << 30, 3600)


class MixAlone(Resampler):
    """Leaves the sides out."""

    @property
    def _beside(self) -> None:  # type: ignore[override]
        return None

    @_beside.setter
    def _beside(self, beside: Any) -> None:
        pass


def read_ms(data: bytes, resampler: type[Resampler]) -> float:
    """Return the processor time of one reading, in milliseconds per second of audio."""
    decoder.Resampler = resampler  # type: ignore[misc]
    begun = time.process_time()
    with PROCESSOR.open(data) as stream:
        for _ in stream.blocks():
            pass
    return 1000 * (time.process_time() - begun) / SECONDS


def main() -> None:
    from tests.support.audio_files import encode

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    noise = np.random.default_rng(0).standard_normal((2, SECONDS * 48_000)).astype(np.float32) / 8
    rows = []
    for container, codec, rate in FILES:
        sides = noise[:, : SECONDS * rate]
        for name, samples in (("mono", sides[0]), ("stereo", sides)):
            data = encode(samples, rate, container, codec)
            pairs = [(read_ms(data, MixAlone), read_ms(data, Resampler)) for _ in range(args.runs)]
            columns = [Spread.of(list(times)).shown(2) for times in zip(*pairs, strict=True)]
            rows.append([f"{name}, {codec}, {rate // 1000} kHz", *columns])
    print(table(["ms per second of audio, median (min - max)", "mix alone", "with both sides"], rows))


if __name__ == "__main__":
    main()
