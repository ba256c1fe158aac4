"""Whether memory grows: `python -m bench.experiments.soak [--sizes nano tiny] [--requests 2000] [--servers
NAME...]`.

16 clients send clips of 3 to 15 s. The proportional set of the process and its children is read after every
hundredth request, at once and again at rest: the first figure depends on what runs at that moment, the second
is what the process keeps. The slopes are those of straight lines through the second half of the readings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench.figures import slope, table
from bench.grow import SHAPES
from bench.serving import environments
from bench.serving.servers import COMMANDS, OURS, Setup, checkpoint, prepare, running
from bench.serving.visit import REST_S, load


def measure(name: str, setup: Setup, n_requests: int, step: int) -> dict[str, list[float]]:
    """Return the readings: requests so far, megabytes just after them, and at rest."""
    sent, busy_mb, rest_mb = [0.0], list[float](), list[float]()
    with running(name, setup) as server:
        busy_mb.append(server.memory_mb())
        rest_mb.append(busy_mb[0])
        model = checkpoint(setup).name
        while sent[-1] < n_requests:
            count = 1 if sent[-1] == 0 else min(step, int(n_requests - sent[-1]))
            flags = ("--clients", "16", "--requests", str(count), "--seed", str(len(sent)))
            outcome = load(server, model, *flags)
            assert all(reply["status"] == 200 for reply in outcome["replies"]), name
            sent.append(sent[-1] + count)
            busy_mb.append(server.memory_mb())
            time.sleep(REST_S)
            rest_mb.append(server.memory_mb())
            shown = f"{busy_mb[-1]:.1f} MB, at rest {rest_mb[-1]:.1f}"
            print(f"{setup.size} {name}: {sent[-1]:.0f} {shown}", file=sys.stderr)
    return {"requests": sent, "busy_mb": busy_mb, "rest_mb": rest_mb}


def row(size: str, name: str, readings: dict[str, list[float]]) -> list[str]:
    """Return the line of the table."""
    sent, half = readings["requests"], len(readings["requests"]) // 2
    cells = [f"{readings['rest_mb'][first]:.0f}" for first in (0, 1)]
    for key in ("busy_mb", "rest_mb"):
        memory_mb = readings[key]
        cells += [f"{value:.0f}" for value in (max(memory_mb), memory_mb[-1])]
        cells.append(f"{1000 * slope(sent[half:], memory_mb[half:]):.2f}")
    return [size, name, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["nano"], choices=("nano", *SHAPES))
    parser.add_argument("--servers", nargs="+", default=[OURS], choices=COMMANDS)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--step", type=int, default=100, help="requests between two readings")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    parser.add_argument("--whisper-cpp", type=Path, help="the server's binary of whisper.cpp")
    args = parser.parse_args()
    rows = []
    binary = args.whisper_cpp.resolve() if args.whisper_cpp else None
    for size in args.sizes:
        setup = Setup(size, cores=args.cores, build=args.build.resolve(), whisper_cpp=binary)
        prepare(setup, args.servers)
        for name in args.servers:
            readings = measure(name, setup, args.requests, args.step)
            (args.build / f"soak-{size}-{name}.json").write_text(json.dumps(readings))
            rows.append(row(size, name, readings))
    header = ["size", "server", "at /health, MB", "with one model"]
    for state in ("busy", "at rest"):
        header += [f"{state}: most", f"after {args.requests}", "slope, kB per request"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
