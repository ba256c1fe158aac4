"""One model replicated over several devices behind one Engine: every worker has a device of its own.

The scheduler sees one engine that gains from as many calls at once as all devices together. A worker is a
thread, so the thread decides which device a batch goes to, and the encoder output remembers it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whisper_server.services.engines.base import (
    Alignment,
    Encoded,
    Engine,
    Hypothesis,
    IsWanted,
    Sampling,
    everything,
)


class _Placed:
    """Encoder output and the engine that holds it."""

    def __init__(self, engine: Engine, encoded: Encoded) -> None:
        self.engine = engine
        self.encoded = encoded

    def select(self, rows: Sequence[int]) -> _Placed:
        """Return these rows, on the same device."""
        return _Placed(self.engine, self.encoded.select(rows))


class ReplicatedEngine:
    """Several engines of the same model behind the Engine protocol."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """Own the engines, one per device."""
        assert engines, "no engines to run on"
        self._engines = tuple(engines)
        first = engines[0]
        infos = [engine.info for engine in engines]
        self.tokenizer = first.tokenizer
        self.info = replace(
            first.info,
            device=",".join(info.device for info in infos),
            max_batch=min(info.max_batch for info in infos),
            workers=sum(info.workers for info in infos),
            memory_bytes=sum(info.memory_bytes for info in infos),
            working_bytes=sum(info.working_bytes for info in infos),
        )
        # A device that gains from two calls at once gets two threads.
        in_turn = [engine for engine in engines for _ in range(engine.info.workers)]
        self._next_engines = itertools.cycle(in_turn)
        self._lock = threading.Lock()
        self._local = threading.local()

    def _engine_of_this_thread(self) -> Engine:
        engine: Engine | None = getattr(self._local, "engine", None)
        if engine is None:
            with self._lock:
                engine = next(self._next_engines)
            self._local.engine = engine
        return engine

    def encode(self, mels: NDArray[np.float32]) -> Encoded:
        """Run the encoder on this thread's device."""
        engine = self._engine_of_this_thread()
        return _Placed(engine, engine.encode(mels))

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        """Return, per row, language code -> probability."""
        placed = _placed(encoded)
        return placed.engine.detect_language(placed.encoded)

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        """Decode each row where it was encoded."""
        placed = _placed(encoded)
        return placed.engine.generate(placed.encoded, prompts, sampling, is_wanted)

    def align(
        self,
        encoded: Encoded,
        start_sequences: Sequence[Sequence[int]],
        text_tokens: Sequence[Sequence[int]],
        n_frames: Sequence[int],
    ) -> list[Alignment]:
        """Align each row where it was encoded."""
        placed = _placed(encoded)
        return placed.engine.align(placed.encoded, start_sequences, text_tokens, n_frames)

    def close(self) -> None:
        """Give the memory of all devices back."""
        for engine in self._engines:
            engine.close()


def _placed(encoded: Encoded) -> _Placed:
    assert isinstance(encoded, _Placed), "encoder output of another engine"
    return encoded
