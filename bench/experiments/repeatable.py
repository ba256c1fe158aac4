"""What CTranslate2's draws depend on, and what takes the place of sampling where a first search fails.

    python -m bench.experiments.repeatable MODEL RECORDINGS NAME...

MODEL is a folder in CTranslate2's format, RECORDINGS one with an index.json (file, transcript), NAME a part
of a file name in it. Each English recording of up to 30 s is taken with white noise as loud as itself, and
4 dB louder. Where the first search loops or is improbable, it is decoded again in two ways: at rising
temperatures by sampling, as openai/whisper does it, and by this server's attempts.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NOISE_DB = (0, 4)
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
Attempt = tuple[float, str]  # mean log-probability, text


def draws(load: Callable[[], Any], states: np.ndarray, prompt: list[int]) -> list[tuple[str, bool]]:
    """Tell what gives the same sampled tokens as the first call of a model with seed 7."""
    import ctranslate2

    def sampled(model: Any) -> list[int]:
        view = ctranslate2.StorageView.from_array(states)
        options = {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": 1.0, "max_length": 24}
        return list(model.generate(view, [prompt], **options)[0].sequences_ids[0])

    ctranslate2.set_random_seed(7)
    model = load()
    first, second = sampled(model), sampled(model)
    ctranslate2.set_random_seed(7)
    third, other = sampled(model), sampled(load())
    return [
        ("the next call", second == first),
        ("a call after set_random_seed(7) again", third == first),
        ("the first call of another model object, with threads of its own", other == first),
    ]


def errors(said: str, heard: str) -> tuple[int, int]:
    """Return how many words are wrong, and how many there are; no case, no punctuation."""
    right, found = (re.sub(r"[^a-z0-9' ]", " ", text.lower()).split() for text in (said, heard))
    row = list(range(len(found) + 1))
    for i, word in enumerate(right, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1], len(right)


class Decoder:
    """One model, and the rules for its attempts."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2

        from whisper_server.services.engines.tokenizer import Tokenizer

        self.library = ctranslate2
        self.model = self.load(folder)
        self.tokenizer = Tokenizer.from_file(
            folder / "tokenizer.json", is_multilingual=self.model.is_multilingual
        )
        self.prompt = self.tokenizer.start_sequence("en", "transcribe")

    @staticmethod
    def load(folder: Path) -> Any:
        import ctranslate2

        return ctranslate2.models.Whisper(str(folder), compute_type="int8")

    def encode(self, mel: np.ndarray) -> np.ndarray:
        return np.array(self.model.encode(self.library.StorageView.from_array(mel[None]), to_cpu=True))

    def best(self, states: np.ndarray, **options: Any) -> Attempt:
        view = self.library.StorageView.from_array(states)
        (row,) = self.model.generate(view, [self.prompt], return_scores=True, **options)
        score, tokens = max(zip(row.scores, row.sequences_ids, strict=True))
        return score * len(tokens) / (len(tokens) + 1), self.tokenizer.text(tokens).strip()

    def sampled(self, states: np.ndarray, first: Attempt) -> tuple[Attempt, int]:
        """Return what openai/whisper's rules keep, and after how many attempts."""
        kept = first
        for count, temperature in enumerate(TEMPERATURES, 1):
            options = {"num_hypotheses": 5, "sampling_topk": 0, "sampling_temperature": temperature}
            attempt = self.best(states, beam_size=1, **options)
            if not fails(attempt):
                return attempt, count
            kept = max(kept, attempt, key=lambda one: (not loops(one), one[0]))
        return kept, len(TEMPERATURES)

    def ours(self, states: np.ndarray, mel: np.ndarray, first: Attempt) -> tuple[Attempt, int]:
        """Return what the server keeps."""
        from whisper_server.services.decoding.seeds import of_attempt
        from whisper_server.services.engines.ct2.chance import repetition_penalty, shaken

        kept = first
        for count, temperature in enumerate(TEMPERATURES, 1):
            noisy = shaken(states[0], of_attempt(mel, 0, temperature), temperature)[None]
            attempt = self.best(noisy, beam_size=5, repetition_penalty=repetition_penalty(temperature))
            if not fails(attempt):
                return attempt, count
            kept = max(kept, attempt, key=lambda one: (not loops(one), one[0]))
        return kept, len(TEMPERATURES)


def loops(attempt: Attempt) -> bool:
    from whisper_server.services.decoding.window_decoder import compression_ratio

    return compression_ratio(attempt[1]) > 2.4


def fails(attempt: Attempt) -> bool:
    return loops(attempt) or attempt[0] < -1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    chosen = parser.parse_args()
    from bench.audio import samples_of
    from bench.figures import table
    from whisper_server.services.speech import log_mel

    decoder = Decoder(chosen.model)
    chance = np.random.default_rng(3)
    sums: dict[tuple[str, str], list[float]] = {}
    silence = log_mel.log_mel(np.zeros(16_000, np.float32), 80)
    rows = draws(lambda: decoder.load(chosen.model), decoder.encode(silence), decoder.prompt)
    print(table(["", "same tokens"], [[name, "yes" if same else "no"] for name, same in rows]), flush=True)
    for entry in json.loads((chosen.recordings / "index.json").read_text(encoding="utf-8")):
        if not any(name in entry["file"] for name in chosen.names):
            continue
        samples = samples_of(chosen.recordings / entry["file"])
        for noise_db in NOISE_DB:
            loud = samples + chance.standard_normal(len(samples), np.float32) * np.float32(
                samples.std() * 10 ** (noise_db / 20)
            )
            mel = log_mel.log_mel((loud / np.abs(loud).max()).astype(np.float32), 80)
            states = decoder.encode(mel)
            first = decoder.best(states, beam_size=5)
            if fails(first):
                for line in _compared(decoder, states, mel, first):
                    _add(sums, line, entry["transcript"])
    print(table(["first search", "then", "windows", "wrong, %", "attempts", "s"], list(_lines(sums))))


@dataclass(frozen=True)
class _Line:
    """What came of one window one way."""

    kind: str
    way: str
    text: str
    attempts: int
    took_s: float


def _compared(decoder: Decoder, states: np.ndarray, mel: np.ndarray, first: Attempt) -> Iterator[_Line]:
    kind = "loops" if loops(first) else "improbable"
    ways: dict[str, Callable[[], tuple[Attempt, int]]] = {
        "nothing": lambda: (first, 0),
        "sampled": lambda: decoder.sampled(states, first),
        "ours": lambda: decoder.ours(states, mel, first),
    }
    for name, way in ways.items():
        began = time.perf_counter()
        kept, count = way()
        yield _Line(kind, name, kept[1], count, time.perf_counter() - began)


def _add(sums: dict[tuple[str, str], list[float]], line: _Line, said: str) -> None:
    figures = [1.0, *map(float, errors(said, line.text)), float(line.attempts), line.took_s]
    before = sums.get((line.kind, line.way), [0.0] * 5)
    sums[line.kind, line.way] = [one + other for one, other in zip(before, figures, strict=True)]


def _lines(sums: dict[tuple[str, str], list[float]]) -> Sequence[list[str]]:
    return [
        [kind, name, f"{windows:.0f}", f"{100 * wrong / words:.1f}", f"{count:.0f}", f"{took:.1f}"]
        for (kind, name), (windows, wrong, words, count, took) in sorted(sums.items())
    ]


if __name__ == "__main__":
    main()
