"""What loading and unloading models does to the memory of the process: whether it really comes back.

    python -m bench.experiments.model_memory small base [--switches 50] [--no-trim]

Sizes are those of `bench.grow`; a folder is taken as it is. The first model transcribes a clip and is
unloaded, three times over; then the two take turns. Resident memory is read from the system after each
step; the slope is that of a line through the switches, the first ten left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from bench.grow import SHAPES, grow
from whisper_server.core.config import Settings
from whisper_server.core.types import TranscribeParams
from whisper_server.services.container import Services, open_services
from whisper_server.services.loaded_models import table

CLIP = Path(__file__).parents[2] / "models" / "nano-whisper" / "samples" / "en-plain-000.flac"
SKIPPED = 10


def rss_mb() -> float:
    return float(psutil.Process().memory_info().rss / 1e6)


async def transcribe(services: Services, name: str) -> None:
    transcription = await services.transcriber.open(CLIP, TranscribeParams(services.catalog.resolve(name)))
    async for _ in transcription.segments():
        pass


async def unloaded(services: Services, name: str) -> None:
    services.models.unload(services.catalog.resolve(name))
    while services.models.loaded():  # noqa: ASYNC110  (the manager has no event for it)
        await asyncio.sleep(0.01)


async def measure(names: list[str], settings: Settings, switches: int, show: Callable[[str], None]) -> None:
    async with open_services(settings) as services:
        await transcribe(services, names[0])  # converts, and imports what is imported late
        await unloaded(services, names[0])
        show(f"| before, libraries loaded | {rss_mb():.0f} |")
        for turn in range(3):
            await transcribe(services, names[0])
            (state,) = services.models.loaded()
            what = f"{names[0]}, {state.memory_bytes / 1e6:.0f} MB of weights, used once, time {turn + 1}"
            show(f"| {what} | {rss_mb():.0f} |")
            await unloaded(services, names[0])
            show(f"| unloaded | {rss_mb():.0f} |")
        loaded, floor = [], []
        for turn in range(switches):
            await transcribe(services, names[turn % 2])
            loaded.append(rss_mb())
            await unloaded(services, names[turn % 2])
            floor.append(rss_mb())
        for index, name in enumerate(names):
            show(row(f"{name}, loaded and used", loaded[SKIPPED:][index::2], 2))
        show(row("nothing loaded", floor[SKIPPED:], 1))


def row(what: str, seen: list[float], every: int) -> str:
    """Return a line of the table; `every`: switches from one figure to the next."""
    slope = np.polyfit(np.arange(len(seen)), seen, 1)[0] / every
    figures = f"first {seen[0]:.0f}, last {seen[-1]:.0f}, highest {max(seen):.0f}; {slope:+.2f} a switch"
    return f"| {what} | {figures} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs=2, metavar="MODEL", help=f"a folder, or one of {', '.join(SHAPES)}")
    parser.add_argument("--switches", type=int, default=50, help=f"more than {SKIPPED + 4}")
    parser.add_argument("--no-trim", action="store_true", help="leave freed memory to the allocator")
    arguments = parser.parse_args()
    if arguments.switches < SKIPPED + 4:
        parser.error(f"a slope needs more than {SKIPPED + 4} switches")
    if arguments.no_trim:
        table.return_memory = lambda: None  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [
            Path(model) if os.sep in model else grow(SHAPES[model], Path(scratch) / model)
            for model in arguments.models
        ]
        names = [folder.name for folder in folders]
        models = tuple(f"{name}={folder}" for name, folder in zip(names, folders, strict=True))
        settings = Settings(
            _env_file=None, models=models, max_models=1, cache_dir=Path(scratch) / "cache", offline=True
        )
        print("| | resident memory, MB |\n| --- | --- |")
        asyncio.run(measure(names, settings, arguments.switches, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
