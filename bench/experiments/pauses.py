"""How many words are lost where voice detection cuts pauses: why `VadOptions` are what they are.

    python -m bench.experiments.pauses

Joins the robust English clips, three times over, with pauses of 0.5 to 9.5 s into one file, and transcribes
it with the nano model for several settings of the voice detection.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile

import numpy as np

RATE = 16_000
SETTINGS = ((700.0, 300.0), (1000.0, 600.0), (2000.0, 400.0), (2000.0, 600.0), (2000.0, 800.0))


async def count(data: bytes, said: str, silence_ms: float, pad_ms: float, cache: str) -> int:
    from tests.conftest import NANO
    from tests.support.nano_clips import word_errors
    from whisper_server.core.config import load_settings
    from whisper_server.core.types import TranscribeParams, VadOptions
    from whisper_server.services.container import open_services

    options = VadOptions(min_silence_ms=silence_ms, speech_pad_ms=pad_ms)
    async with open_services(load_settings({"model": str(NANO), "cache_dir": cache})) as services:
        params = TranscribeParams(services.catalog.resolve(services.catalog.default), vad=options)
        return word_errors(said, (await services.transcriber.transcribe(data, params)).text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    from tests.support.audio_files import encode
    from tests.support.nano_clips import ROBUST, pcm

    pieces: list[np.ndarray] = []
    clips = [clip for clip in ROBUST if clip.language == "en" and clip.kind == "plain"] * 3
    for index, clip in enumerate(clips):
        pieces += [pcm(clip.name), np.zeros(int((0.5 + 3 * (index % 4)) * RATE), np.float32)]
    data = encode(np.concatenate(pieces), RATE, "flac", "flac")
    said = " ".join(clip.text for clip in clips)
    print(
        f"| silence that splits, ms | padding, ms | wrong words of {len(said.split())} |\n| --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as cache:
        for silence_ms, pad_ms in SETTINGS:
            wrong = asyncio.run(count(data, said, silence_ms, pad_ms, cache))
            print(f"| {silence_ms:.0f} | {pad_ms:.0f} | {wrong} |")


if __name__ == "__main__":
    main()
