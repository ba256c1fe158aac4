"""The serving benchmark: this server against its peers, on the same weights, audio and cores.

    python -m bench.serving --sizes tiny base small --runs 5 [--whisper-cpp-source FOLDER]
    python -m bench.serving --quick                     # a look at whether everything works
    python -m bench.serving ... --resume                # go on with one that was cut off, on the same code

Needs `pip install -r requirements-bench.txt`. Makes what is missing under build/bench (environments,
weights), then visits the servers by turns, so that a drift of the machine hits all alike: start, latency
of one clip, a file of ten minutes, 16 clients in a closed loop, clients that arrive at random (open loop).
Prints the tables of the pages beside this file; every figure is kept in build/bench/serving-*.json.

Defaults of each: beam 5 in this server and faster-whisper, greedy in the others; voice detection in this
server and the batched pipeline. `--beam` makes the beams equal, `--vad` the detection, where they can be.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench.grow import SHAPES
from bench.serving import environments
from bench.serving.journal import Journal
from bench.serving.report import report
from bench.serving.servers import COMMANDS, OURS, Setup, available, prepare, processor
from bench.serving.visit import PARTS, RATES, Plan, Visit, visit

PEERS = [name for name in COMMANDS if name != OURS]


def measure(setup: Setup, plans: dict[str, Plan], runs: int, *, resumes: bool) -> list[Visit]:
    """Visit every server `runs` times, by turns; each run begins with another one."""
    servers, journal = list(plans), Journal(setup.build / "visits.jsonl")
    prepare(setup, servers)
    visits: list[Visit] = []
    for run in range(runs):
        shift = run % len(servers)
        for name in [*servers[shift:], *servers[:shift]]:
            found = journal.find(setup, plans[name], run, name) if resumes else None
            if found is None:
                began = time.perf_counter()
                found = visit(name, setup, plans[name], seed=run)
                journal.add(setup, plans[name], run, found)
                took_s = time.perf_counter() - began
                print(f"{setup.size}, run {run + 1}: {name} took {took_s:.0f} s", file=sys.stderr)
            visits.append(found)
    return visits


def conditions(setup: Setup, plan: Plan, servers: list[str], runs: int) -> str:
    """Say what the figures are of."""
    packages = ("ctranslate2", "av", "onnxruntime", "fastapi", "uvicorn", "numpy")
    from importlib.metadata import version

    ours = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {setup.cores} cores of {processor()},"
        f" Python {sys.version.split()[0]}; runs: {runs}.",
        f"This server: {ours}.",
    ]
    for name in environments.PINNED:
        if any(server.startswith(name) for server in servers):
            found = environments.versions(name, setup.build)
            lines.append(f"{name}: {', '.join(f'{package} {number}' for package, number in found.items())}.")
    beam = f"beam {setup.beam} in all" if setup.beam else "the beam that each has by default"
    language = "clients say the language" if plan.language else "no language is given"
    lines.append(f"Search: {beam}; voice detection: {setup.vad}; {language}.")
    return "\n".join(lines)


def main() -> None:
    args = _arguments().parse_args()
    source = args.whisper_cpp_source
    binary = args.whisper_cpp.resolve() if args.whisper_cpp else None
    if source:
        binary = environments.build_whisper_cpp(source, args.build)
    loads = (args.language, tuple(args.rates))
    plan = Plan(tuple(args.parts), args.repeats, args.seconds, 16, args.minutes, args.timeout, *loads)
    if args.quick:
        plan = Plan(plan.parts, 1, 4.0, 16, 1.0, 10.0, args.language, rates=(0.5, 3.0))
    without = replace(plan, parts=tuple(part for part in plan.parts if part != "open"))
    args.build.mkdir(parents=True, exist_ok=True)
    for size in ["tiny"] if args.quick and args.sizes == list(_SIZES) else args.sizes:
        setup = Setup(size, args.beam, args.vad, args.cores, args.build.resolve(), binary)
        servers = available(setup, [OURS, *args.peers])
        open_servers = [OURS, *(args.peers if args.open_peers is None else args.open_peers)]
        plans = {name: plan if name in open_servers else without for name in servers}
        runs = 1 if args.quick else args.runs
        visits = measure(setup, plans, runs, resumes=args.resume)
        by_server = {name: [each for each in visits if each.server == name] for name in servers}
        said = conditions(setup, plan, servers, runs)
        kept = {"conditions": said, "visits": [asdict(each) for each in visits]}
        file = args.build / f"serving-{size}-beam{args.beam}-vad-{args.vad}.json"
        file.write_text(json.dumps(kept, indent=1))
        print(f"# {size}\n\n{said}\n\n{report(by_server, OURS, plan.rates)}\n", flush=True)


_SIZES = ("tiny", "base", "small")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(_SIZES), choices=("nano", *SHAPES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--open-peers", nargs="*", choices=PEERS, help="those with an open loop; all")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="one short run, tiny unless sizes are given")
    parser.add_argument("--beam", type=int, default=0, help="of all; 0: the default of each")
    parser.add_argument("--vad", default="default", choices=("default", "on", "off"))
    parser.add_argument("--language", action="store_true", help="clients say the language of their clip")
    parser.add_argument("--repeats", type=int, default=3, help="requests of a single clip in one run")
    parser.add_argument("--seconds", type=float, default=12.0, help="about how long a loop takes")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of the open loop: of capacity")
    parser.add_argument("--resume", action="store_true", help="keep what a run that was cut off has measured")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the long file")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds of a client in the open loop")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    parser.add_argument("--whisper-cpp", type=Path, help="the server's binary of whisper.cpp")
    parser.add_argument("--whisper-cpp-source", type=Path, help="its source folder: it is compiled here")
    return parser


if __name__ == "__main__":
    main()
