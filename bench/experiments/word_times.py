"""Word times against the truth and against faster-whisper: `python -m bench.experiments.word_times`.

The bundled `plain` clips say when each word begins and ends. Both run the same converted 8-bit weights,
faster-whisper in an environment of its own (bench.serving.environments); only clips whose words both heard
right are compared, or there would be no word to compare with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from bench.figures import table
from bench.serving import environments
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams, Transcript
from whisper_server.services.container import open_services
from whisper_server.services.engines.ct2.convert import ensure_converted

NANO = Path(__file__).parents[2] / "models" / "nano-whisper"
PEER = Path(__file__).parents[1] / "serving" / "peers" / "faster_whisper_words.py"
QUANTILES = (50, 90, 99)

Timed: TypeAlias = Sequence[tuple[str, float, float]]  # (word, start, end) in seconds


@dataclass(frozen=True)
class Clip:
    """One recording: the truth, and what the server says of it."""

    name: str
    truth: Timed
    transcript: Transcript

    @property
    def words(self) -> Timed:
        return [(word.text, word.start_s, word.end_s) for s in self.transcript.segments for word in s.words]

    def is_heard_right(self, heard: Timed) -> bool:
        return [word for word, _, _ in self.truth] == [word for word, _, _ in heard]


def measure(cache_dir: Path) -> list[Clip]:
    """Transcribe the plain clips."""
    entries = json.loads((NANO / "samples" / "clips.json").read_text(encoding="utf-8"))
    plain = [entry for entry in entries if entry["kind"] == "plain"]
    transcripts = asyncio.run(_transcripts(cache_dir, [entry["file"] for entry in plain]))
    return [
        Clip(entry["file"], entry["words"], transcript)
        for entry, transcript in zip(plain, transcripts, strict=True)
    ]


async def _transcripts(cache_dir: Path, names: Sequence[str]) -> list[Transcript]:
    settings = Settings(_env_file=None, model=str(NANO), cache_dir=cache_dir, offline=True, threads=1)
    async with open_services(settings) as services:
        params = TranscribeParams(services.catalog.resolve(NANO.name), word_timestamps=True)
        return [
            await services.transcriber.transcribe((NANO / "samples" / name).read_bytes(), params)
            for name in names
        ]


def faster_whisper(folder: Path, files: Sequence[Path]) -> list[Timed]:
    """Return the words that faster-whisper hears in each file, with the converted model in `folder`."""
    command = [str(environments.python("faster-whisper")), str(PEER), str(folder), *map(str, files)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[Timed] = json.loads(done.stdout)
    return found


def errors_s(truth: Timed, heard: Timed) -> tuple[list[float], list[float]]:
    """Return how far each start and each end is off."""
    pairs = list(zip(truth, heard, strict=True))
    return [abs(a[1] - b[1]) for a, b in pairs], [abs(a[2] - b[2]) for a, b in pairs]


def quantiles(heard: Sequence[tuple[Clip, Timed]]) -> dict[str, list[float]]:
    """Return the quantiles of start and end errors in seconds; every clip's words must be heard right."""
    both = [errors_s(clip.truth, timed) for clip, timed in heard]
    starts, ends = (np.concatenate([pair[side] for pair in both]) for side in (0, 1))
    return {
        "start": [float(q) for q in np.percentile(starts, QUANTILES)],
        "end": [float(q) for q in np.percentile(ends, QUANTILES)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        clips = measure(Path(cache))
        files = [NANO / "samples" / clip.name for clip in clips]
        theirs = faster_whisper(ensure_converted(NANO, Path(cache), "int8"), files)
    pairs = [
        (clip, other)
        for clip, other in zip(clips, theirs, strict=True)
        if clip.is_heard_right(clip.words) and clip.is_heard_right(other)
    ]
    print(f"{sum(len(clip.truth) for clip, _ in pairs)} words in {len(pairs)} of {len(clips)} clips\n")
    rows = []
    for name, heard in (
        ("this server", [(clip, clip.words) for clip, _ in pairs]),
        ("faster-whisper", pairs),
    ):
        for side, values in quantiles(heard).items():
            rows.append([f"{side}, {name}", *(f"{value:.2f}" for value in values)])
    print(table(["error, s, at quantile", *(f"{q} %" for q in QUANTILES)], rows))


if __name__ == "__main__":
    main()
