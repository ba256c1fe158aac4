"""Word times against the truth and against faster-whisper: `python -m bench.word_times`.

The bundled `plain` clips say when each word begins and ends. Both run the same converted 8-bit weights;
only clips whose words both heard right are compared, or there would be no word to compare with.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from whisper_server.core.config import Settings
from whisper_server.core.types import Transcript
from whisper_server.services.container import open_services
from whisper_server.services.engines.convert import ensure_converted
from whisper_server.services.transcriber import TranscribeParams

NANO = Path(__file__).parents[1] / "models" / "nano-whisper"
QUANTILES = (50, 90, 99)

Timed: TypeAlias = Sequence[tuple[str, float, float]]  # (word, start, end) in seconds


@dataclass(frozen=True)
class Clip:
    """One recording: the truth, and what two programs say of it."""

    name: str
    truth: Timed
    ours: Transcript
    theirs: Timed

    @property
    def our_words(self) -> Timed:
        return [(word.text, word.start_s, word.end_s) for s in self.ours.segments for word in s.words]

    @property
    def is_comparable(self) -> bool:
        said = [word for word, _, _ in self.truth]
        return all(said == [word for word, _, _ in heard] for heard in (self.our_words, self.theirs))


def measure(cache_dir: Path) -> list[Clip]:
    """Run both over the plain clips."""
    entries = json.loads((NANO / "samples" / "clips.json").read_text(encoding="utf-8"))
    plain = [entry for entry in entries if entry["kind"] == "plain"]
    names = [entry["file"] for entry in plain]
    ours = asyncio.run(_ours(cache_dir, names))
    theirs = _faster_whisper(ensure_converted(NANO, cache_dir, "int8"), names)
    return [
        Clip(entry["file"], entry["words"], mine, other)
        for entry, mine, other in zip(plain, ours, theirs, strict=True)
    ]


async def _ours(cache_dir: Path, names: Sequence[str]) -> list[Transcript]:
    settings = Settings(_env_file=None, model=str(NANO), cache_dir=cache_dir, offline=True, threads=1)
    params = TranscribeParams(NANO.name, word_timestamps=True)
    async with open_services(settings) as services:
        return [
            await services.transcriber.transcribe((NANO / "samples" / name).read_bytes(), params)
            for name in names
        ]


def _faster_whisper(folder: Path, names: Sequence[str]) -> list[Timed]:
    from faster_whisper import WhisperModel

    model: Any = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
    found: list[Timed] = []
    for name in names:
        segments, _ = model.transcribe(str(NANO / "samples" / name), word_timestamps=True, vad_filter=True)
        found.append([(word.word.strip(), word.start, word.end) for s in segments for word in s.words])
    return found


def errors_s(truth: Timed, heard: Timed) -> tuple[list[float], list[float]]:
    """Return how far each start and each end is off."""
    pairs = list(zip(truth, heard, strict=True))
    return [abs(a[1] - b[1]) for a, b in pairs], [abs(a[2] - b[2]) for a, b in pairs]


def quantiles(clips: Sequence[Clip], heard: str) -> dict[str, list[float]]:
    """Return the quantiles of start and end errors of `our_words` or `theirs`, in seconds."""
    both = [errors_s(clip.truth, getattr(clip, heard)) for clip in clips if clip.is_comparable]
    starts, ends = (np.concatenate([pair[side] for pair in both]) for side in (0, 1))
    return {
        "start": [float(q) for q in np.percentile(starts, QUANTILES)],
        "end": [float(q) for q in np.percentile(ends, QUANTILES)],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        clips = measure(Path(cache))
    used = [clip for clip in clips if clip.is_comparable]
    print(f"{sum(len(clip.truth) for clip in used)} words in {len(used)} of {len(clips)} clips\n")
    print("| error, s, at quantile | " + " | ".join(f"{q} %" for q in QUANTILES) + " |")
    print("| --- " * (len(QUANTILES) + 1) + "|")
    for name, heard in (("this server", "our_words"), ("faster-whisper", "theirs")):
        for side, values in quantiles(clips, heard).items():
            print(f"| {side}, {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
