"""How much the CTranslate2 engine asks of the library in one call; a stand-in for the library counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whisper_server.services.engines.base import Hypothesis, Sampling
from whisper_server.services.engines.ct2.engine import ALIGNED_POSITIONS, CTranslate2Engine
from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder


class Library:
    """Answers with what it was given: the first token of the prompt, the length of the text."""

    device, compute_type, n_mels, is_multilingual = "cpu", "int8", 80, True

    def __init__(self) -> None:
        self.windows: list[int] = []  # of each call
        self.positions: list[int] = []

    def generate(self, features: Any, prompts: list[list[int]], **_options: Any) -> list[Any]:
        assert features.shape[0] == len(prompts)
        self.windows.append(len(prompts))
        return [SimpleNamespace(scores=[0.0], sequences_ids=[one[:1]], no_speech_prob=0.0) for one in prompts]

    def align(self, features: Any, start: list[int], texts: list[list[int]], frames: list[int]) -> list[Any]:
        assert features.shape[0] == len(texts) == len(frames)
        self.positions.append(len(texts) * max(len(start) + len(text) + 2 for text in texts))
        return [SimpleNamespace(alignments=[], text_token_probs=[float(len(text))] * 300) for text in texts]


class Encoder(OnnxEncoder):
    def __init__(self) -> None:
        self.name = "onnxruntime int8"
        self.alone: list[bool] = []  # one for each call

    def encode(self, mels: Any, *, is_alone: bool = True) -> Any:
        self.alone.append(is_alone)
        return np.zeros((len(mels), 1500, 8), dtype=np.float32)


def engine(library: Library, max_batch: int, encoder: Encoder | None = None) -> CTranslate2Engine:
    return CTranslate2Engine(
        library,
        None,  # type: ignore[arg-type]
        encoder or Encoder(),
        max_batch=max_batch,
        workers=1,
        memory_bytes=0,
        working_bytes=0,
    )


@pytest.mark.parametrize(("max_batch", "searched", "sampled"), [(4, [6], [1] * 6), (16, [6], [3, 3])])
def test_copies_of_sampled_windows_are_no_more_than_a_batch(
    max_batch: int, searched: list[int], sampled: list[int]
) -> None:
    for temperature, calls in ((0.0, searched), (0.2, sampled)):
        library = Library()
        one = engine(library, max_batch)
        heard = one.generate(
            one.encode(np.zeros((6, 80, 3000))), [[row, 0] for row in range(6)], Sampling(5, temperature)
        )
        assert heard == [Hypothesis((row,), 0.0, 0.0) for row in range(6)]
        assert library.windows == calls


def test_an_alignment_holds_few_scores_at_once() -> None:
    library = Library()
    one = engine(library, 4)
    lengths = [224, 3, 100, 120, 90, 2]
    start = [1, 2, 3]
    times = one.align(
        one.encode(np.zeros((6, 80, 3000))), [start] * 6, [[7] * n for n in lengths], [3000] * 6
    )
    assert [len(time.probabilities) for time in times] == lengths
    assert [time.probabilities[0] for time in times] == lengths
    assert max(library.positions) <= ALIGNED_POSITIONS
    assert len(library.positions) < len(lengths)  # short ones share a call


def test_the_encoder_is_told_when_it_has_the_cores_to_itself() -> None:
    mels = np.zeros((1, 80, 3000))

    class Busy(Library):
        def generate(self, *arguments: Any, **options: Any) -> list[Any]:
            one.encode(mels)  # another worker, meanwhile
            return super().generate(*arguments, **options)

    encoder = Encoder()
    one = engine(Busy(), 1, encoder)
    one.generate(one.encode(mels), [[0]], Sampling(5, 0.0))
    one.encode(mels)
    assert encoder.alone == [True, False, True]
