"""Peak memory of the audio stages of the pipeline on a long file: open -> vad.spans -> windows.pack.

    python -m bench.experiments.memory_long_file [--hours 3] [--container ogg] [--codec libopus]

Makes the file from the samples of the nano model, with pauses, in a child process (so that the encoder's
memory does not count), reads it in this one, and prints the peak resident set before and after.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATE = 16_000


def make(path: Path, hours: float, container: str, codec: str) -> None:
    from tests.support.audio_files import clips, encode

    speech = np.concatenate([np.append(clip.samples(), np.zeros(3 * RATE, np.float32)) for clip in clips()])
    path.write_bytes(encode(np.resize(speech, int(hours * 3600 * RATE)), RATE, container, codec))


def peak_mb() -> float:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def measure(path: Path, n_mels: int) -> None:
    from whisper_server.services.audio_processor import AudioProcessor
    from whisper_server.services.speech import vad, windows

    processor = AudioProcessor(max_bytes=4 << 30, max_seconds=100 * 3600)
    list(windows.pack(vad.spans([np.zeros(RATE, np.float32)]), n_mels))
    before, start = peak_mb(), time.perf_counter()
    n_windows, speech_s = 0, 0.0
    with processor.open(path) as stream:
        for window in windows.pack(vad.spans(stream.blocks()), n_mels):
            n_windows += 1
            speech_s += window.duration_s
        wall_s = time.perf_counter() - start
        print(
            f"file        {path.stat().st_size / 1e6:.1f} MB, {stream.position_s:.0f} s, {stream.info.format}"
        )
    print(f"speech      {speech_s:.0f} s in {n_windows} windows")
    print(f"wall        {wall_s:.1f} s, {stream.position_s / wall_s:.0f} times real time")
    print(f"peak memory {before:.0f} MB with libraries loaded, {peak_mb():.0f} MB after the file")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--container", default="ogg")
    parser.add_argument("--codec", default="libopus")
    parser.add_argument("--mels", type=int, default=80)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.hours, args.container, args.codec)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long"
        command = [sys.executable, "-m", "bench.experiments.memory_long_file", "--make", str(path)]
        command += ["--hours", str(args.hours), "--container", args.container, "--codec", args.codec]
        subprocess.run(command, check=True)
        measure(path, args.mels)


if __name__ == "__main__":
    main()
