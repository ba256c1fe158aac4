"""How much of what is said is heard: ours and its peers on the same weights and recordings.

    python -m bench.accuracy RECORDINGS WEIGHTS
    python -m bench.accuracy RECORDINGS WEIGHTS --servers whisper-server --asked json --limit 30

RECORDINGS is a folder with an index.json, WEIGHTS one in Hugging Face format; with NAME-ct2 beside it, peers
on CTranslate2 use that. Every answer is kept: a command that was cut off goes on where it stopped, and one
that asks for less prints its tables at once. Tables, texts and figures per file: build/bench/accuracy.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.accuracy import journal, recordings
from bench.accuracy.journal import Journal
from bench.accuracy.listeners import FASTER, KNOWN, OPENAI, OURS, Hear, Heard, listening
from bench.accuracy.recordings import Recording
from bench.accuracy.report import ASKED, Result, heard_by_all, report
from bench.serving import environments
from bench.serving.servers import Setup, processor


def hear(name: str, args: argparse.Namespace, found: Sequence[Recording]) -> list[Result]:
    """Have a server hear every recording in every way that is asked for, but for what it has heard before."""
    setup = _setup(args)
    url = dict(args.url).get(name)
    key = journal.key(name, setup, gives_language=args.language, url=url)
    kept = Journal(args.build / "accuracy" / f"{name}.jsonl", key)
    missing = [(a, r) for a in args.asked for r in found if kept.get(args.recordings / r.file, a) is None]
    if missing and not args.kept:
        with listening(name, setup, url) as listener:
            shortest = min(found, key=lambda each: each.seconds or float("inf"))
            _ask(listener, args, shortest, "json")  # warm: the first request may load the model
            for number, (asked, recording) in enumerate(missing, 1):
                heard = _ask(listener, args, recording, asked)
                kept.add(args.recordings / recording.file, asked, heard)
                shown = f"{name}: {number} of {len(missing)}, {asked}, {heard.wall_s:.1f} s, {recording.file}"
                print(shown, file=sys.stderr)
    results = []
    for recording in found:
        answers = {asked: kept.get(args.recordings / recording.file, asked) for asked in args.asked}
        results.append(Result(recording, {a: answer for a, answer in answers.items() if answer is not None}))
    return results


def _ask(listener: Hear, args: argparse.Namespace, recording: Recording, asked: str) -> Heard:
    is_one = args.language and len(recording.languages) == 1
    language = recording.languages[0] if is_one else None
    return listener(args.recordings / recording.file, language, asked == "words")


def _setup(args: argparse.Namespace) -> Setup:
    return Setup(
        args.weights.name,
        args.beam,
        cores=args.threads,
        build=args.build,
        serves=tuple(args.flags.split()),
        weights=args.weights,
    )


def conditions(args: argparse.Namespace, n_files: int) -> str:
    """Say what the figures are of."""
    ours = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("ctranslate2", "onnxruntime", "av", "numpy", "whisper-normalizer", "jiwer")
    )
    beam = args.beam or "as each has it by default"
    language = "given" if args.language else "detected"
    lines = [
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores of {processor()},"
        f" threads: {args.threads}, Python {platform.python_version()}.",
        f"{n_files} recordings; weights: {args.weights.name}; beam {beam}; the language is {language}.",
        f"This server: {ours}; flags: {args.flags or 'none'}.",
    ]
    for name, used in (("faster-whisper", FASTER), (OPENAI, (OPENAI,))):
        if set(used) & set(args.servers):
            found = environments.versions(name, args.build)
            lines.append(f"{name}: {', '.join(f'{package} {number}' for package, number in found.items())}.")
    return "\n".join(lines)


def main() -> None:
    args = _arguments().parse_args()
    args.build, args.weights = args.build.resolve(), args.weights.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    (args.build / "accuracy").mkdir(parents=True, exist_ok=True)
    everything = recordings.read(args.recordings, None if args.no_corrections else recordings.CORRECTIONS)
    if args.scored:
        everything = [each for each in everything if each.is_scored]
    found = recordings.chosen(everything, args.files, args.limit)
    runs: dict[str, list[Result]] = {}
    for name in [*args.servers, *dict(args.url)]:
        runs = heard_by_all({**runs, name: hear(name, args, found)})
        said = conditions(args, len(runs[name]))
        text = f"{said}\n\n{report(runs)}\n"
        kept = {"conditions": said, "runs": {n: [r.as_json() for r in each] for n, each in runs.items()}}
        out = args.build / "accuracy" / args.out
        out.with_suffix(".md").write_text(text, encoding="utf-8")
        out.with_suffix(".json").write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
    print(text)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recordings", type=Path, help="a folder with index.json")
    parser.add_argument("weights", type=Path, help="a folder in Hugging Face format")
    parser.add_argument("--servers", nargs="*", default=[OURS, *FASTER], choices=KNOWN, help=", ".join(KNOWN))
    parser.add_argument(
        "--url",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "URL"),
        help="a server that runs already; its answers are kept by this name",
    )
    parser.add_argument("--asked", nargs="+", default=ASKED, choices=ASKED)
    parser.add_argument("--files", nargs="*", default=[], metavar="PART", help="only names with one of these")
    parser.add_argument("--limit", type=int, help="only so many, spread over the index")
    parser.add_argument("--scored", action="store_true", help="only those whose errors can be counted")
    parser.add_argument("--language", action="store_true", help="give the language where there is one")
    parser.add_argument("--beam", type=int, default=5, help="of all; 0: the default of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--flags", default="", help="more flags for our server: --flags=--no-vad")
    parser.add_argument(
        "--kept", action="store_true", help="start nothing: tables of what every server has heard before"
    )
    parser.add_argument("--no-corrections", action="store_true", help="the index as it is")
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    parser.add_argument("--out", default="results", help="the name of the two files")
    return parser


if __name__ == "__main__":
    main()
