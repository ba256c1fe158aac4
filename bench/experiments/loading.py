"""What 8-bit weights on disk are worth: the time and memory of loading, against quantising at every load.

    python -m bench.experiments.loading tiny base small [--runs 5]

Each load is in a process of its own that has the libraries and nothing else, its files in the page cache.
"as published": float16 on disk, as models for CTranslate2 are published, made int8 while it is loaded;
"8 bits on disk": what our conversion writes where CTranslate2 runs the encoder; "as served": what the server
loads on a CPU, whose encoder is onnxruntime's. Peak and rest are resident memory above what was there before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.experiments.working_memory import status_mb
from bench.figures import Spread, table
from bench.grow import SHAPES, grow
from whisper_server.core.system.allocator import return_memory, tune_allocator
from whisper_server.services.engines.base import EngineSpec

PUBLISHED, ON_DISK, SERVED = "as published", "8 bits on disk", "as served"
STORED = {PUBLISHED: ("float16", None), ON_DISK: ("int8", None), SERVED: ("int8", "int8")}
Figures = dict[str, float]


def measure(way: str, folder: Path) -> Figures:
    """Load one converted folder; return seconds and megabytes. Runs in a process of its own."""
    tune_allocator()
    import ctranslate2

    import whisper_server.services.onnx.runtime  # noqa: F401
    from whisper_server.services.engines.registry import load_engine

    before = status_mb("VmRSS")
    began = time.perf_counter()
    if way == SERVED:
        model: object = load_engine(folder, EngineSpec("ctranslate2", "cpu", "int8", 2), folder)
    else:
        model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=2)
    took_s = time.perf_counter() - began
    peak = status_mb("VmHWM") - before
    return_memory()
    found = {"s": took_s, "peak": peak, "rest": status_mb("VmRSS") - before}
    del model
    return found


def in_a_process(way: str, folder: Path) -> Figures:
    """Return what `measure` does, in a fresh process."""
    command = [sys.executable, "-m", "bench.experiments.loading", "--inside", way, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Figures = json.loads(done.stdout)
    return found


def rows(size: str, runs: int, scratch: Path) -> list[list[str]]:
    """Return a row for each way to load a model of this size; the ways take turns."""
    from whisper_server.services.engines.ct2.convert import ensure_converted

    folder = grow(SHAPES[size], scratch / size)
    folders = {way: ensure_converted(folder, scratch, *stored) for way, stored in STORED.items()}
    loads: dict[str, list[Figures]] = {way: [] for way in STORED}
    for _ in range(runs):
        for way, found in loads.items():
            found.append(in_a_process(way, folders[way]))
    first = {key: Spread.of([each[key] for each in loads[PUBLISHED]]).median for key in ("s", "peak")}
    table_rows = []
    for way, found in loads.items():
        seconds, peak, rest = (Spread.of([each[key] for each in found]) for key in ("s", "peak", "rest"))
        disk_mb = sum(file.stat().st_size for file in folders[way].iterdir()) / 1e6
        ratios = [f"{first['s'] / seconds.median:.1f}", f"{peak.median / first['peak']:.2f}"]
        cells = [f"{disk_mb:.0f}", seconds.shown(2), peak.shown(0), rest.shown(0)]
        table_rows.append([f"{size}, {way}", *cells, *ratios])
    return table_rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SHAPES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--inside", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(measure(given.inside[0], Path(given.inside[1]))))
        return
    head = ["median (min - max)", "on disk, MB", "s", "peak, MB", "rest, MB", "times faster", "of the peak"]
    with tempfile.TemporaryDirectory() as scratch:
        print(table(head, [row for size in given.sizes for row in rows(size, given.runs, Path(scratch))]))


if __name__ == "__main__":
    main()
