"""What is counted for a model is what it takes, and unloading gives it back: resident memory of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.experiments.working_memory import in_a_process
from tests.conftest import NANO, ROOT, SAMPLES, server_environment
from whisper_server.services.engines.base import EngineSpec

CYCLES = 8
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from whisper_server.core.config import Settings
from whisper_server.services.container import open_services
from whisper_server.core.types import TranscribeParams

def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

async def main(folder, cache, clip, cycles):
    settings = Settings(_env_file=None, models=f"nano={folder}", cache_dir=cache, threads=2, offline=True)
    floor = []
    async with open_services(settings) as services:
        model = services.catalog.resolve("nano")
        for _ in range(int(cycles)):
            transcription = await services.transcriber.open(Path(clip), TranscribeParams(model))
            async for _ in transcription.segments():
                pass
            services.models.unload(model)
            while services.models.loaded():
                await asyncio.sleep(0.001)
            floor.append(rss_mb())
    print(json.dumps(floor))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unloading_returns_the_memory(nano_cache: Path) -> None:
    clip = SAMPLES / "en-plain-000.flac"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(NANO), str(nano_cache), str(clip), str(CYCLES)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=server_environment(),
    )
    floor: list[float] = json.loads(done.stdout)
    # The first ones bring in what stays: libraries and their pools. Kept weights would be 14 MB a time.
    assert floor[-1] - floor[2] < 20, floor


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_busy_model_takes_about_what_is_counted(nano_cache: Path) -> None:
    found = in_a_process(NANO, EngineSpec(device="cpu", compute_type="int8", threads=2), nano_cache)
    assert found["loaded"] < found["longest"], found
    # Of so small a model more than half is what a process keeps beside it, and that differs by processor.
    assert found["counted"] / 3 < found["longest"] < 1.1 * found["counted"], found
