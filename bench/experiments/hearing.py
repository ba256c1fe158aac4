"""How many words are lost, and how many invented: real recordings through the whole pipeline.

    python -m bench.experiments.hearing RECORDINGS MODEL [--leave-out FILE ...]

RECORDINGS is a folder with an `index.json`: a list of objects with `file`, `language` and `transcript`
("" where nobody speaks, null where it is not known). English recordings with a transcript are counted in
words, alone and joined into files of about 70 s with short pauses; those without speech, and synthetic
noise, count where any text comes. Needs jiwer and whisper-normalizer, which requirements-bench.txt lacks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from whisper_server.core.types import TranscribeParams
    from whisper_server.services.container import Services

RATE = 16_000
JOINED_S = 70.0
PAUSES_S = (0.2, 0.5, 0.8, 1.2)
NOISE_S = 45.0


@dataclass
class Recording:
    """One file to transcribe; `said` is "" where nobody speaks."""

    name: str
    samples: Any  # float32 [n]
    said: str


@dataclass
class Count:
    """What came of one kind of recording."""

    words: int = 0
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0
    files: int = 0
    with_text: list[str] = field(default_factory=list)
    windows: int = 0
    audio_s: float = 0.0
    processor_s: float = 0.0

    def row(self, kind: str) -> str:
        """Return a line of the table."""
        wrong = self.substituted + self.deleted + self.inserted
        percent = f"{100 * wrong / self.words:.2f} %" if self.words else ""
        errors = (self.substituted, self.deleted, self.inserted) if self.words else ("", "", "")
        cells = (kind, self.files, round(self.audio_s), self.words or "", percent, *errors)
        return (
            "| "
            + " | ".join(map(str, cells))
            + f" | {len(self.with_text)} | {self.windows} | {self.processor_s:.1f} |"
        )


def read(folder: Path, leave_out: list[str]) -> list[Recording]:
    """Return the English recordings with a transcript, and those without speech, that can be read."""
    from whisper_server.core.errors import WhisperServerError
    from whisper_server.services.audio_processor import AudioProcessor

    found = []
    audio = AudioProcessor(1 << 30, 36_000.0)
    for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        said = entry["transcript"]
        if said is None or (said and entry["language"] != "en") or entry["file"] in leave_out:
            continue
        try:
            with audio.open(folder / entry["file"]) as stream:
                samples = np.concatenate(list(stream.blocks()))
        except WhisperServerError:
            continue
        found.append(Recording(entry["file"], samples, said.partition("] ")[2] if said[:1] == "[" else said))
    return found


def joined(recordings: list[Recording]) -> list[Recording]:
    """Return files of about 70 s made of the recordings of 1 to 21 s, each text once per round."""
    rng = random.Random(5)
    texts = {r.said: r for r in recordings if r.said and RATE < len(r.samples) < 21 * RATE}
    files: list[list[Recording]] = [[]]
    for _ in range(2):
        for each in rng.sample(list(texts.values()), len(texts)):
            if sum(len(r.samples) for r in files[-1]) > JOINED_S * RATE:
                files.append([])
            files[-1].append(each)
    made = []
    for number, parts in enumerate(files):
        pieces = []
        for each in parts:
            pieces += [each.samples, np.zeros(int(rng.choice(PAUSES_S) * RATE), np.float32)]
        made.append(Recording(f"joined {number}", np.concatenate(pieces), " ".join(r.said for r in parts)))
    return made


async def count(
    services: Services, recordings: list[Recording], params: TranscribeParams, *, shows: bool
) -> Count:
    """Transcribe the recordings one by one and count what is wrong."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    from tests.support.audio_files import encode

    normalise, total = EnglishTextNormalizer(), Count()
    for each in recordings:
        data = encode(each.samples, RATE, "wav", "pcm_f32le")
        began_s = time.process_time()
        transcription = await services.transcriber.open(data, params)
        text = (await transcription.collect()).text
        total.processor_s += time.process_time() - began_s
        total.windows += transcription.windows_done
        total.files += 1
        total.audio_s += len(each.samples) / RATE
        if text and not each.said:
            total.with_text.append(f"{each.name}: {text}")
        if each.said:
            output = jiwer.process_words(normalise(each.said), normalise(text))
            total.words += output.hits + output.substitutions + output.deletions
            total.substituted += output.substitutions
            total.deleted += output.deletions
            total.inserted += output.insertions
            if shows:
                print(f"{each.name}: {output.deletions} deleted, {output.insertions} inserted: {text}")
    return total


async def compare(folder: Path, model: Path, leave_out: list[str], *, shows: bool) -> None:
    from tests.support.audio_files import noises
    from whisper_server.core.config import load_settings
    from whisper_server.core.types import TranscribeParams
    from whisper_server.services.container import open_services

    found = read(folder, leave_out)
    spoken, silent = [r for r in found if r.said], [r for r in found if not r.said]
    noise = [Recording(name, samples, "") for name, samples in noises(NOISE_S).items()]
    with tempfile.TemporaryDirectory() as cache:
        settings = load_settings({"model": str(model), "cache_dir": cache, "decoder_processes": 0})
        async with open_services(settings) as services:
            params = TranscribeParams(services.catalog.resolve(services.catalog.default))
            english = replace(params, language="en")
            await count(services, spoken[:1], english, shows=False)  # loads the model
            print(
                "| recordings | files | s | words | wrong | substituted | deleted | inserted | with text | "
                "windows | processor s |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
            )
            texts: list[str] = []
            for kind, recordings, asked in (
                ("English", spoken, english),
                ("English, joined", joined(spoken), english),
                ("without speech", silent, params),
                ("synthetic noise", noise, params),
            ):
                total = await count(services, recordings, asked, shows=shows)
                texts += total.with_text
                print(total.row(kind), flush=True)
            print("\n".join(["", *texts]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[], help="files whose transcript is wrong")
    parser.add_argument("--shows", action="store_true", help="print every text")
    arguments = parser.parse_args()
    model, leave_out = arguments.model.resolve(), arguments.leave_out
    asyncio.run(compare(arguments.recordings, model, leave_out, shows=arguments.shows))


if __name__ == "__main__":
    main()
