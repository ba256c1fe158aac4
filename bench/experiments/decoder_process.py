"""What the decoder process costs: time of a clip and of ten minutes, memory, start.

    python -m bench.experiments.decoder_process [--runs 30]

Both ways take turns within one run, so other work on the machine slows down both. Times are those of
`AudioProcessor.open` to the last block. Memory is the proportional set size of the server's side and of the
decoder together, after a clip and after ten minutes, each measured in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil

from bench.figures import Spread, table
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio_processor import AudioProcessor

RATE = 16_000
FORMATS = (("wav", "pcm_s16le"), ("ipod", "aac"), ("ogg", "libopus"), ("mp3", "libmp3lame"))
MAX_BYTES, MAX_SECONDS = 1 << 30, 36_000


def speech(seconds: int, container: str, codec: str) -> bytes:
    from tests.support.audio_files import clips, encode

    samples = np.concatenate([clip.samples() for clip in clips()])
    return encode(np.resize(samples, seconds * RATE), RATE, container, codec)


def timed_ms(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - started)


def decode(processor: AudioProcessor, data: bytes) -> int:
    with processor.open(data) as stream:
        return sum(len(block) for block in stream.blocks())


def times(pool: DecoderProcesses, seconds: int, runs: int) -> str:
    """Return a table of both ways for files of this length."""
    here, there = AudioProcessor(MAX_BYTES, MAX_SECONDS), AudioProcessor(MAX_BYTES, MAX_SECONDS, pool.open)
    rows = []
    for container, codec in FORMATS:
        data = speech(seconds, container, codec)
        assert decode(here, data) == decode(there, data)
        pairs = [
            (timed_ms(lambda data=data: decode(here, data)), timed_ms(lambda data=data: decode(there, data)))
            for _ in range(runs)
        ]
        inside, outside = (Spread.of(values) for values in zip(*pairs, strict=True))
        ratio = Spread.of([outside / inside for inside, outside in pairs])
        more = Spread.of([outside - inside for inside, outside in pairs])
        rows.append([codec, inside.shown(1), outside.shown(1), f"{more.median:+.1f}", f"{ratio.median:.2f}"])
    return table([f"{seconds} s of", "in the server, ms", "in a process, ms", "more", "ratio"], rows)


def starts(runs: int) -> Spread:
    """Return the milliseconds until a new process can decode."""
    pool = DecoderProcesses(1)
    found = Spread.of([timed_ms(pool.private) for _ in range(runs)])
    pool.close()
    return found


def memory(way: str) -> dict[str, float]:
    """Return MB in this process and its children, before, after a clip and after ten minutes."""
    files = [sys.stdin.buffer.read(int(size)) for size in os.environ["BENCH_SIZES"].split()]
    pool = DecoderProcesses(1)
    processor = AudioProcessor(MAX_BYTES, MAX_SECONDS, *([pool.open] if way == "process" else []))

    def pss_mb() -> float:
        me = psutil.Process()
        return sum(each.memory_full_info().pss for each in (me, *me.children())) / 1e6

    found = {"before": pss_mb()}
    for name, data in zip(("clip", "ten minutes"), files, strict=True):
        decode(processor, data)
        found[name] = pss_mb()
    pool.close()
    return found


def memories(runs: int) -> str:
    """Return a table of the memory that decoding adds."""
    files = [speech(5, "ipod", "aac"), speech(600, "ipod", "aac")]
    environment = {**os.environ, "BENCH_SIZES": " ".join(str(len(data)) for data in files)}
    rows = []
    for way in ("server", "process"):
        found = []
        for _ in range(runs):
            command = [sys.executable, "-m", "bench.experiments.decoder_process", "--memory", way]
            done = subprocess.run(
                command, input=b"".join(files), env=environment, stdout=subprocess.PIPE, check=True
            )
            found.append(json.loads(done.stdout))
        added = {name: Spread.of([each[name] - each["before"] for each in found]) for name in found[0]}
        rows.append([f"in the {way}" if way == "server" else "in a process", added["clip"].shown(1),
                     added["ten minutes"].shown(1)])  # fmt: skip
    return table(["MB more than before", "after a clip", "after ten minutes"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(memory(arguments.memory)))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {arguments.runs} runs\n")
    pool = DecoderProcesses(1)
    print(times(pool, 5, arguments.runs), end="\n\n")
    print(times(pool, 600, max(3, arguments.runs // 4)), end="\n\n")
    pool.close()
    print(memories(5), end="\n\n")
    print(f"start of a process, ms: {starts(10).shown(0)}")
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
