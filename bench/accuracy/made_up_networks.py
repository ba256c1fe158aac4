"""Networks for speakers of the intended sizes, with made-up numbers: what they cost, not how good they are.

    python -m bench.accuracy.made_up_networks FOLDER

writes segmentation.onnx (the layers of pyannote's segmentation-3.0) and encoder.onnx (those of WeSpeaker's
ResNet34) there, and prints the processor time of a window of 10 s, and of 4 s of a voice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.onnx.writer import OnnxGraph
from whisper_server.services.speakers.diarizer import MAX_SOUND_S
from whisper_server.services.speakers.networks import WINDOW_SAMPLES, SegmentationNetwork, VoiceEncoder

_RANDOM = np.random.default_rng(0)
_UNITS = 128  # of each direction of an LSTM
_BLOCKS = ((32, 3, 1), (64, 4, 2), (128, 6, 2), (256, 3, 2))  # channels, blocks, stride


def _weight(graph: OnnxGraph, *shape: int) -> str:
    scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
    return graph.constant((_RANDOM.standard_normal(shape) * scale).astype(np.float32))


def segmentation() -> bytes:
    """[1, 1, 160000] -> [1, 589, 7]. A backward LSTM is a second forward one, which costs the same."""
    graph = OnnxGraph()
    value = graph.node("Abs", graph.node("Conv", "x", _weight(graph, 80, 1, 251), strides=[10]))
    value = _pooled(graph, value, 80)
    for channels, before in ((60, 80), (60, 60)):
        value = _pooled(graph, graph.node("Conv", value, _weight(graph, channels, before, 5)), channels)
    value = graph.node("Transpose", value, perm=[2, 0, 1])
    size = 60
    for _ in range(4):
        both = [_lstm(graph, value, size) for _ in range(2)]
        value, size = graph.node("Concat", *both, axis=2), 2 * _UNITS
    value = graph.node("Transpose", value, perm=[1, 0, 2])
    for outputs, inputs in ((128, 256), (128, 128)):
        value = graph.node("LeakyRelu", graph.node("MatMul", value, _weight(graph, inputs, outputs)))
    scores = graph.node("MatMul", value, _weight(graph, 128, 7))
    graph.rename(graph.node("LogSoftmax", scores, axis=2), "y")
    return graph.encoded({"x": (None, 1, None)}, {"y": (None, None, 7)})


def _pooled(graph: OnnxGraph, value: str, channels: int) -> str:
    value = graph.node("MaxPool", value, kernel_shape=[3], strides=[3])
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    value = graph.node("InstanceNormalization", value, graph.constant(ones), graph.constant(zeros))
    return graph.node("LeakyRelu", value)


def _lstm(graph: OnnxGraph, value: str, size: int) -> str:
    weights = _weight(graph, 1, 4 * _UNITS, size), _weight(graph, 1, 4 * _UNITS, _UNITS)
    every, _, _ = graph.nodes("LSTM", value, *weights, outputs=3, hidden_size=_UNITS)
    return graph.node("Squeeze", every, graph.constant(np.array([1])))


def encoder() -> bytes:
    """[1, frames, 80] -> [1, 256]."""
    graph = OnnxGraph()
    image = graph.node(
        "Unsqueeze", graph.node("Transpose", "feats", perm=[0, 2, 1]), graph.constant(np.array([1]))
    )
    value = graph.node("Relu", _conv(graph, image, 32, 1, 1))
    before = 32
    for channels, blocks, stride in _BLOCKS:
        for block in range(blocks):
            value = _block(graph, value, channels, before, stride if block == 0 else 1)
            before = channels
    mean = graph.node("ReduceMean", value, axes=[3], keepdims=1)
    apart = graph.node("Sub", value, mean)
    deviation = graph.node(
        "Sqrt", graph.node("ReduceMean", graph.node("Mul", apart, apart), axes=[3], keepdims=1)
    )
    both = graph.node("Flatten", graph.node("Concat", mean, deviation, axis=1), axis=1)
    graph.rename(graph.node("MatMul", both, _weight(graph, 2 * 256 * 10, 256)), "embs")
    return graph.encoded({"feats": (None, None, 80)}, {"embs": (None, 256)})


def _conv(graph: OnnxGraph, value: str, channels: int, before: int, stride: int, *, size: int = 3) -> str:
    pad = size // 2
    weight = _weight(graph, channels, before, size, size)
    return graph.node("Conv", value, weight, strides=[stride, stride], pads=[pad] * 4)


def _block(graph: OnnxGraph, value: str, channels: int, before: int, stride: int) -> str:
    inner = graph.node("Relu", _conv(graph, value, channels, before, stride))
    inner = _conv(graph, inner, channels, channels, 1)
    if stride != 1 or channels != before:
        value = _conv(graph, value, channels, before, stride, size=1)
    half = graph.constant(np.array([0.5], np.float32))
    return graph.node("Relu", graph.node("Mul", graph.node("Add", value, inner), half))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (("segmentation.onnx", segmentation()), ("encoder.onnx", encoder())):
        (folder / name).write_bytes(data)
        print(f"{folder / name}: {len(data) / 1e6:.1f} MB")
    turns, voices = SegmentationNetwork(folder / "segmentation.onnx"), VoiceEncoder(folder / "encoder.onnx")
    sound = (_RANDOM.standard_normal(WINDOW_SAMPLES) * 0.1).astype(np.float32)
    _print_time("a window", lambda: turns.voices(sound))
    _print_time("a voice", lambda: voices.voice(sound[: int(MAX_SOUND_S * SAMPLE_RATE)]))


def _print_time(what: str, call: Callable[[], object], n_calls: int = 10) -> None:
    started_s = time.process_time()
    for _ in range(n_calls):
        call()
    print(f"{what}: {(time.process_time() - started_s) / n_calls * 1000:.0f} ms")


if __name__ == "__main__":
    main()
