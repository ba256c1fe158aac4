"""How many decode calls at once, on how many threads, and how large: windows per second on this CPU.

    python -m bench.experiments.workers tiny base --rounds 5

Each worker thread encodes a batch and generates its text with a beam of 5, as the scheduler's threads
do. All configurations take turns, so that another program on the machine disturbs all alike; the best
round of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from bench.experiments.encoders import sample_mels
from bench.grow import SHAPES, grow
from whisper_server.services.engines.base import Sampling
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.engine import CTranslate2Engine
from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder
from whisper_server.services.engines.tokenizer import Tokenizer

SEARCH = Sampling(beam_size=5, temperature=0.0)

Mels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Plan:
    """What works: CTranslate2 `workers` x `intra` threads, the encoder on `encoder` threads."""

    workers: int
    intra: int
    encoder: int
    batch: int
    shares: bool = False  # the encoder's threads, among the calls at once: what the server does

    def __str__(self) -> str:
        encoder = f"{self.encoder}, shared" if self.shares else str(self.encoder)
        return f"{self.workers} | {self.intra} | {encoder} | {self.batch}"


class Engine:
    """A model, set up for a plan."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        model = ctranslate2.models.Whisper(
            str(folder),
            device="cpu",
            compute_type="int8",
            inter_threads=plan.workers,
            intra_threads=plan.intra,
        )
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json", is_multilingual=True)
        encoder = OnnxEncoder(folder, "int8", plan.encoder, plan.workers if plan.shares else 1)
        sizes = {"max_batch": plan.batch, "workers": plan.workers, "memory_bytes": 0, "working_bytes": 0}
        self._engine = CTranslate2Engine(model, tokenizer, encoder, **sizes)
        self._start = list(tokenizer.start_sequence("en", "transcribe"))

    def decode(self, mels: Mels) -> list[tuple[int, ...]]:
        found = self._engine.generate(self._engine.encode(mels), [self._start] * len(mels), SEARCH)
        return [hypothesis.tokens for hypothesis in found]


def seconds(engine: Engine, plan: Plan, mels: Mels) -> tuple[float, float]:
    """Return how long the plan takes for all windows, by the clock and by the processor."""
    batches = [mels[first : first + plan.batch] for first in range(0, len(mels), plan.batch)]
    clock, processor = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(plan.workers) as pool:
        list(pool.map(engine.decode, batches))
    return time.perf_counter() - clock, time.process_time() - processor


def plans(threads: int, batches: list[int]) -> Iterator[Plan]:
    half = max(1, threads // 2)
    for batch in batches:
        yield Plan(1, threads, threads, batch)
    for intra, encoder in ((half, threads), (half, half), (threads, threads)):
        for batch in batches:
            yield Plan(2, intra, encoder, batch)
    for batch in batches:
        yield Plan(2, half, threads, batch, shares=True)


def _setup(plan: Plan) -> Plan:
    """Return what a plan has in common with those of other batches: one model in memory for all."""
    return replace(plan, batch=1)


def measure(size: str, arguments: argparse.Namespace, cache: Path) -> None:
    folder = ensure_converted(grow(SHAPES[size], cache / size), cache, "int8", "int8")
    mels = sample_mels(arguments.windows)
    every = plans(arguments.threads, arguments.batches)
    chosen = [plan for plan in every if plan.shares or not arguments.as_served]
    setups = {_setup(plan): plan for plan in chosen}
    engines = {key: Engine(folder, plan) for key, plan in setups.items()}
    never = (float("inf"), float("inf"))
    best, alone = dict.fromkeys(chosen, never), dict.fromkeys(chosen, never)
    for _ in range(arguments.rounds):
        for plan in chosen:
            engine = engines[_setup(plan)]
            alone[plan] = min(alone[plan], seconds(engine, plan, mels[:1]))
            best[plan] = min(best[plan], seconds(engine, plan, mels))
    print(f"\n{size}: windows of 30 s; s of processor time per window\n")
    print(
        f"| workers | decoder | encoder | batch | windows/s | processor, s | one alone, s |\n|{' --- |' * 7}"
    )
    for plan in chosen:
        wall, processor = best[plan]
        per_s, each = len(mels) / wall, processor / len(mels)
        print(f"| {plan} | {per_s:.2f} | {each:.2f} | {alone[plan][0]:.2f} |", flush=True)


def main() -> None:
    """Print one table per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sizes", nargs="+", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--as-served", action="store_true", help="only the workers and threads of the server")
    parser.add_argument("--cache", type=Path, help="keeps the grown models for the next run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            measure(size, arguments, arguments.cache or Path(folder))


if __name__ == "__main__":
    main()
