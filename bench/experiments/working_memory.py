"""What a model takes in memory at its busiest, against what the server counts for it.

    python -m bench.experiments.working_memory tiny small [--compute-types int8 float32] [--engine
    ctranslate2]

Sizes are those of `bench.grow`; a folder is taken as it is. Each model has a process of its own, that holds
the libraries and nothing else before. There every worker gets the fullest batch, all at once: first speech of
30 s as it comes, then, three times, the longest texts there are, after the longest prompts. Figures are
resident memory above what the libraries took; "counted" is what WHISPER_MAX_MODEL_MEMORY_MB is held against.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.audio import samples_of
from bench.figures import table
from bench.grow import NANO, SHAPES, grow
from whisper_server.core.system.allocator import return_memory, tune_allocator
from whisper_server.services.engines.base import Encoded, Engine, EngineSpec, Sampling
from whisper_server.services.engines.registry import load_engine, prepare_engine

TEXT_TOKENS = 220  # of the longest text of a window, and of the longest prompt
HOTTEST = 20.0  # a temperature at which the end of the text is as unlikely as any other token
ROUNDS = 3  # of the longest texts: the workers' busiest moments need not come together in each
STATUS = Path("/proc/self/status")


def status_mb(key: str) -> float:
    """Return a figure of this process: VmRSS, or VmHWM, its highest."""
    return int(STATUS.read_text().partition(f"{key}:")[2].split()[0]) * 1024 / 1e6


def peak_mb(work: Callable[[], None], workers: int) -> float:
    """Return the most memory that the process had while so many threads did the work."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the highest figure
    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return status_mb("VmHWM")


def speech(n_mels: int, batch: int) -> np.ndarray:
    """Return float32 [batch, n_mels, 3000]: the densest bundled clips."""
    from whisper_server.services.speech import log_mel

    clips = json.loads((NANO / "samples" / "clips.json").read_text(encoding="utf-8"))
    dense = [clip["file"] for clip in clips if clip["kind"] == "dense"]
    samples = [samples_of(NANO / "samples" / dense[row % len(dense)]) for row in range(batch)]
    return np.stack([log_mel.log_mel(one, n_mels) for one in samples])


class Busy:
    """The work of one worker, with the fullest batch."""

    def __init__(self, engine: Engine, beam_size: int) -> None:
        self._engine, self._beam_size = engine, beam_size
        self._batch = engine.info.max_batch
        self._mels = speech(engine.info.n_mels, self._batch)
        self._start = list(engine.tokenizer.start_sequence("en", "transcribe"))
        self._text = [int(one) for one in np.random.default_rng(0).integers(1000, 40_000, size=TEXT_TOKENS)]
        (self._previous,) = engine.tokenizer.prompt(self._start, "4 0 2")[:1]

    def as_it_comes(self) -> None:
        """Encode, detect the language, search, align."""
        encoded = self._engine.encode(self._mels)
        self._engine.detect_language(encoded)
        found = self._engine.generate(encoded, self._prompts(), Sampling(self._beam_size, 0.0))
        texts = [[token for token in one.tokens if token < self._engine.tokenizer.end] for one in found]
        self._align(encoded, [text or self._text[:1] for text in texts])

    def longest(self) -> None:
        """Search after the longest prompt, search the longest texts, align the longest."""
        encoded = self._engine.encode(self._mels)
        prompts = [[self._previous, *self._text, *self._start]] * self._batch
        self._engine.generate(encoded, prompts, Sampling(self._beam_size, 0.0))
        hot = Sampling(self._beam_size, HOTTEST, seeds=tuple(range(self._batch)))
        self._engine.generate(encoded, self._prompts(), hot)
        self._align(encoded, [self._text] * self._batch)

    def _prompts(self) -> list[list[int]]:
        return [self._start] * self._batch

    def _align(self, encoded: Encoded, texts: list[list[int]]) -> None:
        self._engine.align(encoded, [self._start] * self._batch, texts, [3000] * self._batch)


def measure(folder: Path, spec: EngineSpec, cache: Path) -> dict[str, float]:
    """Return megabytes; runs in a process of its own."""
    tune_allocator()
    if spec.engine == "torch":
        from transformers import WhisperForConditionalGeneration  # noqa: F401
    else:
        import ctranslate2  # noqa: F401

        import whisper_server.services.onnx.runtime  # noqa: F401

    speech(80, 1)  # what reads audio is no part of a model
    before = status_mb("VmRSS")
    engine = load_engine(folder, spec, cache)
    return_memory()
    info = engine.info
    loaded = status_mb("VmRSS")
    busy = Busy(engine, spec.beam_size)
    usual = peak_mb(busy.as_it_comes, info.workers)
    longest = max(peak_mb(busy.longest, info.workers) for _ in range(ROUNDS))
    return {
        "weights": info.memory_bytes / 1e6,
        "loaded": loaded - before,
        "usual": usual - before,
        "longest": longest - before,
        "counted": (info.memory_bytes + info.working_bytes) / 1e6,
    }


def in_a_process(folder: Path, spec: EngineSpec, cache: Path) -> dict[str, float]:
    """Return what `measure` does, in a fresh process."""
    prepare_engine(folder, spec, cache)  # converting takes memory of its own
    command = [sys.executable, "-m", "bench.experiments.working_memory", str(folder), "--inside", str(cache)]
    command += ["--engine", spec.engine, "--compute-types", spec.compute_type]
    command += ["--threads", str(spec.threads), "--beam", str(spec.beam_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"a folder, or one of {', '.join(SHAPES)}")
    parser.add_argument("--engine", default="ctranslate2", choices=["ctranslate2", "torch"])
    parser.add_argument("--compute-types", nargs="+", default=["int8", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--inside", type=Path, metavar="CACHE", help=argparse.SUPPRESS)
    given = parser.parse_args()

    def spec_of(compute_type: str) -> EngineSpec:
        return EngineSpec(given.engine, "cpu", compute_type, given.threads, beam_size=given.beam)

    if given.inside:
        print(json.dumps(measure(Path(given.models[0]), spec_of(given.compute_types[0]), given.inside)))
        return
    head = ("MB", "weights", "loaded", "busy with speech", "busy with the longest", "counted", "to longest")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in given.models:
            grown = Path(scratch) / model
            folder = Path(model) if os.sep in model else grow(SHAPES[model], grown)
            for compute_type in given.compute_types:
                found = in_a_process(folder, spec_of(compute_type), Path(scratch) / "cache")
                ratio = found["counted"] / found["longest"]
                figures = [f"{value:.0f}" for value in found.values()]
                rows.append((f"{folder.name} {compute_type}", *figures, f"{ratio:.2f}"))
    print(table(head, rows))


if __name__ == "__main__":
    main()
