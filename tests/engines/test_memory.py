"""Unloading gives memory back to the system: resident memory of a fresh process, with the real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT, SAMPLES, server_environment

CYCLES = 8
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from whisper_server.core.config import Settings
from whisper_server.services.container import open_services
from whisper_server.services.transcriber import TranscribeParams

def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

async def main(folder, cache, clip, cycles):
    settings = Settings(_env_file=None, models=f"nano={folder}", cache_dir=cache, threads=2, offline=True)
    floor = []
    async with open_services(settings) as services:
        for _ in range(int(cycles)):
            transcription = await services.transcriber.open(Path(clip), TranscribeParams(model="nano"))
            async for _ in transcription.segments():
                pass
            services.models.unload("nano")
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
