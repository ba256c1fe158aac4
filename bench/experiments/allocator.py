"""What the C library's way of keeping freed memory costs the bare engine: speed, page faults, memory.

    python -m bench.experiments.allocator [--sizes tiny base small] [--runs 5]

The engine decodes windows that are ready on as many threads as it takes, in a process of its own for each
way; all ways take turns. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from bench.experiments.overhead import CLIENTS, bare_model, engine_per_s, ready_windows
from bench.experiments.working_memory import peak_mb
from bench.figures import Spread, table
from bench.grow import SHAPES
from bench.serving import environments
from bench.serving.servers import ROOT, Setup
from whisper_server.core.system.allocator import tune_allocator

# Parameters of mallopt(3), by their numbers in malloc.h.
ARENAS, MAPPED = -8, -3
WAYS: dict[str, dict[int, int] | None] = {
    "glibc's own": {},
    "2 arenas, mapped from 4 MiB": {ARENAS: 2, MAPPED: 4 << 20},
    "2 arenas, mapped from 10 MiB": {ARENAS: 2, MAPPED: 10 << 20},
    "the server's": None,
}
# With the digits that are shown.
COLUMNS = {
    "windows/s": 2,
    "page faults per window": 0,
    "processor in the system, ms per window": 0,
    "peak, MB": 0,
}


def measure(way: str, setup: Setup, n_windows: int) -> dict[str, float]:
    """Return the columns of one way, which this process has from now on."""
    options = WAYS[way]
    if options is None:
        tune_allocator()
    for option, value in (options or {}).items():
        if ctypes.CDLL(None).mallopt(option, value) != 1:
            raise RuntimeError(f"mallopt refuses {value} for {option}")
    model, beam = bare_model(setup)
    try:
        ready = ready_windows(model.engine.info.n_mels)
        engine_per_s(model.engine, ready, 2 * model.engine.info.workers, beam)
        per_s: list[float] = []
        before = resource.getrusage(resource.RUSAGE_SELF)
        peak = peak_mb(lambda: per_s.append(engine_per_s(model.engine, ready, n_windows, beam)), 1)
        after = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        model.close()
    faults = (after.ru_minflt - before.ru_minflt) / n_windows
    system_ms = 1000 * (after.ru_stime - before.ru_stime) / n_windows
    return dict(zip(COLUMNS, (*per_s, faults, system_ms, peak), strict=True))


def apart(way: str, args: argparse.Namespace, size: str) -> dict[str, float]:
    """Measure in a process of its own."""
    flags = ["--way", way, "--sizes", size, "--windows", str(args.windows), "--cores", str(args.cores)]
    command = [
        sys.executable,
        "-m",
        "bench.experiments.allocator",
        *flags,
        "--build",
        str(args.build.resolve()),
    ]
    found: dict[str, float] = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base", "small"], choices=("nano", *SHAPES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--windows", type=int, default=CLIENTS)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        setup = Setup(args.sizes[0], cores=args.cores, build=args.build.resolve())
        print(json.dumps(measure(args.way, setup, args.windows)))
        return
    for size in args.sizes:
        runs = [{way: apart(way, args, size) for way in WAYS} for _ in range(args.runs)]
        rows = [
            [way, *(Spread.of([run[way][column] for run in runs]).shown(n) for column, n in COLUMNS.items())]
            for way in WAYS
        ]
        print(table([size, *COLUMNS], rows), flush=True)
        print()


if __name__ == "__main__":
    main()
