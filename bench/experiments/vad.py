"""Voice detection against another network: what it takes, and what it finds in recordings.

    python -m bench.experiments.vad OTHER.onnx [--runs 15]
    python -m bench.experiments.vad OTHER.onnx --recordings FOLDER [--model FOLDER] [--thresholds 0.5 0.6]

OTHER.onnx has the inputs and outputs of the server's own (`input` [n, 576], `h`, `c`): it may be
silero_vad_16k_sequence.onnx of the package silero-vad, or silero_vad_v6.onnx of faster-whisper 1.2.1. Without
recordings: processor time on one thread, by turns in one process and over the same speech, in calls of 8 s,
which files give, and of 1 s.

FOLDER has recordings and an `index.json`, a list of {"file", "language" (null where there is no speech),
"transcript" (or null)}; what cannot be read is left out. Frames of 32 ms and spans of speech are counted with
each network, also over a minute of each kind of noise that the tests make. With a model in Hugging Face
format: words that come out wrong, where the transcript is in one language that has spaces between words, and
recordings without speech that get text. The language is given where it is known; case and punctuation do not
count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench import audio
from bench.figures import Spread, better_by, table, word_edits, words
from whisper_server.core.config import Settings
from whisper_server.core.errors import InvalidAudio
from whisper_server.core.types import TranscribeParams, VadOptions
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.container import open_services
from whisper_server.services.speech import silero, vad
from whisper_server.services.speech.silero import FRAME_SAMPLES, STATE

CALLS = 20  # in a row, of which the mean counts: one alone is too short for the clock
NO_SPACES = ("ja", "zh")  # languages whose words cannot be told apart by spaces
NOISE_S = 60.0

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording and what its index says of it."""

    path: Path
    language: str | None  # None: no speech
    transcript: str | None
    samples: Samples  # [n], 16 kHz

    @property
    def counts_words(self) -> bool:
        return self.transcript is not None and self.is_one_language and self.language not in NO_SPACES

    @property
    def is_one_language(self) -> bool:
        return self.language is not None and "+" not in self.language


def recordings_in(folder: Path) -> list[Recording]:
    """Read a folder's recordings, those that can be read."""
    found = []
    for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        path = folder / entry["file"]
        try:
            samples = audio.samples_of(path)
        except InvalidAudio:
            continue
        found.append(Recording(path, entry["language"], entry["transcript"], samples))
    return found


@contextmanager
def network(model: Path) -> Iterator[None]:
    """Let the server find speech with this network."""
    with patch.object(silero, "MODEL_FILE", model):
        silero._load_session.cache_clear()
        try:
            yield
        finally:
            silero._load_session.cache_clear()


def probabilities(samples: Samples) -> NDArray[np.float64]:
    """Return the probability of each frame."""
    model = silero.Silero()
    return np.array([*model.probabilities(samples), *model.finish()])


# What it takes.


def speech(n_frames: int) -> Samples:
    """Return frames of speech, float32 [n_frames, 576]."""
    processor = AudioProcessor(max_bytes=1 << 30, max_seconds=3600)
    with processor.open(audio.long(minutes=1.0).data) as stream:
        block = next(stream.blocks())
    return silero.frames(block)[:n_frames]


def ms_per_call(session: Any, part: Samples) -> float:
    """Return milliseconds of processor time of a call."""
    state = np.zeros(STATE, dtype=np.float32)
    begin = time.process_time()
    for _ in range(CALLS):
        session.run(None, {"input": part, "h": state, "c": state})
    return 1000 * (time.process_time() - begin) / CALLS


def times(other: Path, runs: int) -> str:
    """Return the table of processor times."""
    sessions = [silero.session_of(each) for each in (other, silero.MODEL_FILE)]
    rows = []
    for n_frames in (silero.RUN_FRAMES, 32):
        part = speech(n_frames)
        pairs = [[ms_per_call(session, part) for session in sessions] for _ in range(1 + runs)][1:]
        theirs, ours = (Spread.of([pair[side] for pair in pairs]) for side in (0, 1))
        ahead = better_by(ours.median, theirs.median, higher_is_better=False)
        seconds = n_frames * FRAME_SAMPLES / audio.RATE
        rows.append([f"{seconds:.0f} s of audio", theirs.shown(2), ours.shown(2), f"{ahead:.2f} x"])
    return table(["ms, median (min - max)", other.name, silero.MODEL_FILE.name, "times faster"], rows)


# What it finds.


def groups_of(recordings: Sequence[Recording]) -> dict[str, list[Samples]]:
    """Return what is counted together."""
    from tests.support.audio_files import noises

    return {
        "speech": [one.samples for one in recordings if one.language is not None],
        "no speech by the index": [one.samples for one in recordings if one.language is None],
        "made noise": list(noises(NOISE_S).values()),
    }


def finds(networks: Sequence[Path], recordings: Sequence[Recording]) -> str:
    """Return the table of frames and spans."""
    options = VadOptions()
    rows = []
    for name, sounds in groups_of(recordings).items():
        decided: list[NDArray[np.bool_]] = []
        for model in networks:
            with network(model):
                decided.append(np.concatenate([probabilities(one) for one in sounds]) >= options.threshold)
                found = [list(vad.spans([one])) for one in sounds]
            spans = [span for each in found for span in each]
            rows.append(
                [
                    name,
                    model.name,
                    str(len(sounds)),
                    f"{int(decided[-1].sum())} of {len(decided[-1])}",
                    f"{int((decided[0] != decided[-1]).sum())}",
                    str(len(spans)),
                    f"{sum(len(span.samples) for span in spans) / audio.RATE:.1f}",
                    str(sum(not each for each in found)),
                ]
            )
    head = [
        "sound",
        "network",
        "files",
        "frames of speech",
        "not as the first says",
        "spans",
        "seconds in them",
    ]
    return table([*head, "files without any"], rows)


async def heard(model: Path, recordings: Sequence[Recording], options: VadOptions, cache: Path) -> list[str]:
    """Return the text of each recording, one after the other."""
    settings = Settings(_env_file=None, model=str(model), cache_dir=cache, offline=True)
    async with open_services(settings) as services:
        source = services.catalog.resolve(model.name)
        return [
            (
                await services.transcriber.transcribe(
                    one.path.read_bytes(),
                    TranscribeParams(
                        source, language=one.language if one.is_one_language else None, vad=options
                    ),
                )
            ).text
            for one in recordings
        ]


def texts(
    networks: Sequence[Path], recordings: Sequence[Recording], model: Path, thresholds: Sequence[float]
) -> str:
    """Return the table of words."""
    used = [one for one in recordings if one.counts_words or one.language is None]
    n_words = sum(len(words(one.transcript or "")) for one in used)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for threshold in thresholds:
            for each in networks:
                with network(each):
                    options = VadOptions(threshold=threshold)
                    said = asyncio.run(heard(model, used, options, Path(cache)))
                pairs = list(zip(used, said, strict=True))
                edits = [word_edits(one.transcript, text) for one, text in pairs if one.transcript]
                substituted, deleted, inserted = (sum(edit[kind] for edit in edits) for kind in range(3))
                wrong = substituted + deleted + inserted
                silent = [text for one, text in pairs if one.language is None]
                row = [each.name, f"{threshold}", f"{100 * wrong / n_words:.2f} %"]
                row += [str(substituted), str(deleted), str(inserted)]
                rows.append([*row, f"{sum(bool(text) for text in silent)} of {len(silent)}"])
    head = ["network", "threshold", f"wrong of {n_words} words", "substituted", "deleted", "inserted"]
    return table([*head, "text without speech"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, metavar="OTHER.onnx")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--recordings", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[VadOptions().threshold])
    args = parser.parse_args()
    if not args.recordings:
        print(times(args.other, args.runs))
        return
    recordings = [one for folder in args.recordings for one in recordings_in(folder)]
    networks = [args.other, silero.MODEL_FILE]
    print(finds(networks, recordings), flush=True)
    if args.model:
        print("\n" + texts(networks, recordings, args.model, args.thresholds))


if __name__ == "__main__":
    main()
