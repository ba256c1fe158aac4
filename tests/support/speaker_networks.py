"""Networks for speakers in tests: a real voice encoder, and made-up ones of the intended shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whisper_server.services.onnx.writer import OnnxGraph

ENCODER = Path(__file__).parent / "voice_encoder" / "encoder.onnx"
# Between 14 single voices and 16 mixtures of two to four of them, of which 13 get the right number.
ENCODER_THRESHOLD = 0.64

RATE = 16_000
FRAMES = 589  # of segmentation-3.0 over 10 s
SHIFT = 270  # samples from one of its frames to the next
BANDS = (0.15, 0.5, 0.9)  # how loud each voice of `loudness_segmentation` is


def loudness_segmentation() -> bytes:
    """A segmentation of the shape of pyannote's, whose three "voices" are three levels of loudness.

    Takes [n, 1, samples]; gives [n, frames, 7], logarithms of probabilities: of silence and of each voice by
    how near the loudness is to it in BANDS, of two voices at once none.
    """
    graph = OnnxGraph()
    level = graph.node(
        "Conv",
        graph.node("Abs", "x"),
        graph.constant(np.full((1, 1, 721), 1 / 721, np.float32)),
        strides=[SHIFT],
    )
    rows = graph.node("Transpose", level, perm=[0, 2, 1])  # [n, frames, 1]
    centres = np.array([0.0, *BANDS], np.float32)
    distance = graph.node("Abs", graph.node("Sub", rows, graph.constant(centres[None, None])))
    likeness = graph.node("Mul", distance, graph.constant(np.array([-20.0], np.float32)))
    both = graph.constant(np.zeros((1, 1, 3), np.float32))
    shape = graph.node("Mul", graph.node("Slice", likeness, *_ends(graph, 0, 3, 2)), both)
    pairs = graph.node("Sub", shape, graph.constant(np.array([1000.0], np.float32)))
    scores = graph.node("Concat", likeness, pairs, axis=2)
    graph.rename(graph.node("LogSoftmax", scores, axis=2), "y")
    return graph.encoded({"x": (None, 1, None)}, {"y": (None, None, 7)})


def filter_bank_encoder() -> bytes:
    """An encoder of the shape of WeSpeaker's: [n, frames, 80] -> [n, 256], made-up numbers.

    What it tells apart is how a sound changes from frame to frame in each band.
    """
    graph = OnnxGraph()
    power = graph.node("Mul", "feats", "feats")
    means = graph.node("ReduceMean", power, axes=[1], keepdims=0)
    weights = np.random.default_rng(0).standard_normal((80, 256)).astype(np.float32)
    graph.rename(graph.node("MatMul", means, graph.constant(weights)), "embs")
    return graph.encoded({"feats": (None, None, 80)}, {"embs": (None, 256)})


def stairs() -> np.ndarray:
    """Three levels of loudness, 4 s each, each of another sound, then the first again."""
    rng = np.random.default_rng(2)
    rough = rng.choice(np.float32([-1, 1]), 4 * RATE)
    t = np.arange(4 * RATE) / RATE
    square = np.sign(np.sin(2 * np.pi * 300 * t)).astype(np.float32)
    high = np.sign(np.sin(2 * np.pi * 3000 * t)).astype(np.float32)
    return np.concatenate([0.15 * rough, 0.5 * square, 0.89 * high, 0.15 * rough])


def _ends(graph: OnnxGraph, first: int, last: int, axis: int) -> list[str]:
    return [graph.constant(np.array([value])) for value in (first, last, axis)]
