"""What it costs to take a job up again, and what is stored of it: a file once, then with every window known.

    python -m bench.experiments.resume MODEL AUDIO [--minutes 20]

The audio is repeated to the length. Times are of the processor, all threads together, so other work on the
machine changes them little; the file is decoded in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

RATE = 16_000


async def measure(model: Path, audio: Path, minutes: float) -> None:
    from dataclasses import replace

    from tests.support.audio_files import encode
    from whisper_server.core.config import load_settings
    from whisper_server.core.types import TranscribeParams
    from whisper_server.services.audio_processor import AudioProcessor
    from whisper_server.services.container import open_services
    from whisper_server.services.jobs import codec
    from whisper_server.services.jobs.work import WindowMemory

    with AudioProcessor(1 << 30, 86_400).open(audio) as stream:
        once = np.concatenate(list(stream.blocks()))
    samples = np.resize(once, int(minutes * 60 * RATE))
    data = encode(samples, RATE, "flac", "flac")
    with tempfile.TemporaryDirectory() as cache:
        settings = load_settings({"model": str(model), "cache_dir": cache, "decoder_processes": 0})
        async with open_services(settings) as services:
            params = TranscribeParams(services.catalog.resolve(services.catalog.default))
            params = replace(params, word_timestamps=True)
            await services.transcriber.transcribe(encode(once[: 5 * RATE], RATE), params)  # loads the model

            async def run(memory: WindowMemory) -> tuple[float, str, int]:
                began = time.process_time()
                source = await services.transcriber.open(data, params, memory=memory)
                transcript = await source.collect()
                size = sum(len(codec.segment_text(each)) for each in transcript.segments)
                return time.process_time() - began, transcript.text, size

            first = WindowMemory({})
            whole_s, text, segment_bytes = await run(first)
            stored = dict(first.take_new())
            again = WindowMemory(stored)
            known_s, same, _ = await run(again)
            assert same == text
            assert not again.take_new()
    window_bytes = sum(map(len, stored.values()))
    print("| | processor, s per hour of audio |\n| --- | --- |")
    print(
        f"| decoded | {whole_s / minutes * 60:.0f} |\n| every window known | {known_s / minutes * 60:.1f} |"
    )
    hour = 60 / minutes / 1024
    print(
        f"\n{len(stored)} windows; per hour {window_bytes * hour:.0f} KiB of windows until the job ends,",
        end=" ",
    )
    print(f"{segment_bytes * hour:.0f} KiB of segments until it is removed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.model, arguments.audio, arguments.minutes))


if __name__ == "__main__":
    main()
