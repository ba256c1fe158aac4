"""How much the CTranslate2 engine asks of the library in one call; a stand-in for the library counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whisper_server.services.engines.base import Hypothesis, Sampling
from whisper_server.services.engines.ct2.engine import ALIGNED_POSITIONS, CTranslate2Engine
from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder

SOUND = np.sin(np.arange(1500 * 8, dtype=np.float32)).reshape(1, 1500, 8)  # encoder output of one window


class Library:
    """Answers with what it was given: the first token of the prompt, the length of the text."""

    device, compute_type, n_mels, is_multilingual = "cpu", "int8", 80, True

    def __init__(self) -> None:
        self.windows: list[int] = []  # of each call
        self.positions: list[int] = []
        self.features: list[Any] = []
        self.penalties: list[float] = []

    def generate(self, features: Any, prompts: list[list[int]], **options: Any) -> list[Any]:
        assert features.shape[0] == len(prompts)
        # It draws from a generator that no call can seed: it must not be asked to.
        assert options.keys().isdisjoint({"sampling_topk", "sampling_temperature", "num_hypotheses"})
        self.windows.append(len(prompts))
        self.features.append(np.array(features))
        self.penalties.append(options["repetition_penalty"])
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
        return np.repeat(SOUND, len(mels), axis=0)


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


def test_nothing_is_sampled() -> None:
    """Above temperature 0 each window has noise of its own seed, wherever it is in the batch."""
    library = Library()
    one = engine(library, 4)
    prompts = [[0, 0], [1], [2, 0], [3, 0], [4, 0]]
    seeds = (5, 5, 6, 5, 7)
    for temperature in (0.0, 0.2, 1.0):
        heard = one.generate(
            one.encode(np.zeros((5, 80, 3000))), prompts, Sampling(5, temperature, seeds=seeds)
        )
        assert heard == [Hypothesis((row,), 0.0, 0.0) for row in range(5)]
    assert library.windows == [4, 1] * 3  # a call for each length of a prompt
    assert library.penalties == [1.0, 1.0, 1.1, 1.1, 1.25, 1.25]
    plain, _, together, alone, warmer, _ = library.features
    assert np.array_equal(plain, SOUND[[0, 0, 0, 0]])
    assert np.array_equal(together[0], together[2])
    assert np.array_equal(together[0], alone[0])
    assert len({row.tobytes() for row in together}) == 3
    noise, more = (float((one - plain).std()) for one in (together, warmer))
    assert noise == pytest.approx(0.2 * SOUND.std(), rel=0.05)
    assert more == pytest.approx(1.0 * SOUND.std(), rel=0.05)


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
