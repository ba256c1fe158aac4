"""Word times of running speech against published ones, and against faster-whisper's, with real weights:
`python -m bench.experiments.running_speech MODEL AUDIO TIMES`.

MODEL is a folder in Hugging Face format, AUDIO one of recordings, TIMES a JSON file: the name of a recording
-> its words as [word, start, end] in seconds, none where they are not published. Words are compared where
both texts have the same characters: models mishear, and words of languages without spaces are cut
differently.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import json
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.experiments.word_times import Timed, faster_whisper
from bench.figures import table
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams
from whisper_server.services.container import open_services
from whisper_server.services.engines.ct2.convert import ensure_converted

QUANTILES = (50, 75, 90)
FAR_S = 0.1


async def ours(model: Path, files: Sequence[Path], cache_dir: Path) -> list[tuple[Timed, float]]:
    """Return the words that the server hears in each file, and how long it is."""
    settings = Settings(_env_file=None, model=str(model), cache_dir=cache_dir, offline=True)
    found: list[tuple[Timed, float]] = []
    async with open_services(settings) as services:
        params = TranscribeParams(services.catalog.resolve(model.name), word_timestamps=True)
        for file in files:
            transcript = await services.transcriber.transcribe(file.read_bytes(), params)
            words = [(w.text, w.start_s, w.end_s) for s in transcript.segments for w in s.words]
            found.append((words, transcript.duration_s))
    return found


def _edges(words: Timed) -> list[tuple[str, float | None, float | None]]:
    """Return each letter and digit, with the start of its word if it begins it, and the end if it ends it."""
    edges: list[tuple[str, float | None, float | None]] = []
    for word, start_s, end_s in words:
        spoken = [char for char in word.lower() if char.isalnum()]
        last = len(spoken) - 1
        edges += [(c, None if i else start_s, end_s if i == last else None) for i, c in enumerate(spoken)]
    return edges


def errors_s(truth: Timed, heard: Timed) -> tuple[list[float], list[float]]:
    """Return how far starts and ends are off, of the words that begin or end at the same characters."""
    left, right = _edges(truth), _edges(heard)
    matcher = difflib.SequenceMatcher(None, [c for c, *_ in left], [c for c, *_ in right], autojunk=False)
    starts: list[float] = []
    ends: list[float] = []
    for block in matcher.get_matching_blocks():
        for (_, start, end), (_, its_start, its_end) in zip(
            left[block.a : block.a + block.size], right[block.b : block.b + block.size], strict=True
        ):
            if start is not None and its_start is not None:
                starts.append(its_start - start)
            if end is not None and its_end is not None:
                ends.append(its_end - end)
    return starts, ends


def faults(words: Timed, duration_s: float) -> tuple[int, int, int, int]:
    """Count the words, those without length, those that begin before another ends, those outside the file."""
    backwards = sum(right[1] < left[2] - 1e-6 for left, right in pairwise(words))
    outside = sum(start < 0 or end > duration_s + 1e-6 for _, start, end in words)
    return len(words), sum(end <= start for _, start, end in words), backwards, outside


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("times", type=Path)
    args = parser.parse_args()
    published: dict[str, Timed] = json.loads(args.times.read_text(encoding="utf-8"))
    files = [args.audio / name for name in published]
    with tempfile.TemporaryDirectory() as cache:
        here = asyncio.run(ours(args.model, files, Path(cache)))
        theirs = faster_whisper(ensure_converted(args.model, Path(cache), "int8"), files)
    rows, counts = [], []
    for name, heard in (("this server", [words for words, _ in here]), ("faster-whisper", theirs)):
        pairs = [errors_s(*both) for both in zip(published.values(), heard, strict=True)]
        for side, found in (("start", [p[0] for p in pairs]), ("end", [p[1] for p in pairs])):
            off = np.concatenate([np.asarray(each) for each in found])
            shown = [f"{value:.2f}" for value in np.percentile(np.abs(off), QUANTILES)]
            far = f"{100 * float(np.mean(np.abs(off) > FAR_S + 1e-6)):.0f} %"
            rows.append([f"{side}, {name}", str(len(off)), *shown, far, f"{np.median(off):+.2f}"])
        counted = [faults(words, end) for words, (_, end) in zip(heard, here, strict=True)]
        counts.append([name, *(str(sum(column)) for column in zip(*counted, strict=True))])
    heads = [
        "error, s, at quantile",
        "words",
        *(f"{q} %" for q in QUANTILES),
        f"over {FAR_S} s",
        "median, signed",
    ]
    print(table(heads, rows))
    print(table(["all recordings", "words", "without length", "before another's end", "outside"], counts))


if __name__ == "__main__":
    main()
