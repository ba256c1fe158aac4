"""Make the tests' voice encoder, tests/support/voice_encoder/encoder.onnx, out of Resemblyzer's package.

    pip download Resemblyzer==0.1.4 --no-deps && pip install torch
    python -m tools.make_voice_encoder Resemblyzer-0.1.4-py3-none-any.whl

Takes `pretrained.pt` out of the wheel, if it has the hash PUBLISHED_SHA256, and writes a graph from sound to
voice, and beside it Resemblyzer's licence (Apache-2.0). PyTorch reads the weights and nothing else, so the
graph is the same byte for byte wherever it is made. Weights are kept as 16-bit floats, half of the size.

It is no model to work with: it is from 2018, hears 1.6 s at a time, and has no idea of two voices at once.
It is small enough for the repository, real, and free, so tests can tell real voices apart.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_server.services.onnx.writer import OnnxGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

PUBLISHED = "resemblyzer/pretrained.pt"  # in the wheel
PUBLISHED_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
LICENSE = "Resemblyzer-0.1.4.dist-info/LICENSE"
TARGET = Path(__file__).parents[1] / "tests" / "support" / "voice_encoder" / "encoder.onnx"

RATE = 16_000
FFT, HOP = 400, 160  # samples: 25 ms, 10 ms
BINS = FFT // 2 + 1
MELS = 40
UNITS = 256
LAYERS = 3
FRAMES = 160  # what it hears at once, 1.6 s
SAMPLES = FRAMES * HOP
LEAST_RMS = 10 ** (-30 / 20)  # quieter sound is raised to this, as it was when the network learned


def weights_of(wheel: Path) -> dict[str, Array]:
    """Return the published weights by their names.

    Raises:
        ValueError: they are not the ones whose wiring this module knows.
    """
    import torch

    with zipfile.ZipFile(wheel) as files:
        data = files.read(PUBLISHED)
    if (found := hashlib.sha256(data).hexdigest()) != PUBLISHED_SHA256:
        raise ValueError(f"{PUBLISHED} has the hash {found}")
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["model_state"]
    return {name: value.numpy().astype(np.float32) for name, value in state.items()}


def mel_filters() -> Array:
    """Return Slaney's filters, float32 [BINS, MELS]: linear up to 1 kHz, then logarithmic, of equal area."""
    step, log_step = 200 / 3, np.log(6.4) / 27
    top = 1000 / step + np.log(RATE / 2 / 1000) / log_step
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < 15, mels * step, 1000 * np.exp(log_step * (mels - 15)))
    bins = np.linspace(0, RATE / 2, BINS)
    rising = (bins[:, None] - edges[None, :-2]) / np.diff(edges)[None, :-1]
    falling = (edges[None, 2:] - bins[:, None]) / np.diff(edges)[None, 1:]
    area = 2 / (edges[2:] - edges[:-2])
    filters: Array = (np.maximum(0, np.minimum(rising, falling)) * area).astype(np.float32)
    return filters


def spectrum_kernels() -> Array:
    """Return Hann's window times cosines, then sines: float32 [2 * BINS, 1, FFT]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    turns = 2 * np.pi * np.outer(np.arange(BINS), np.arange(FFT)) / FFT
    return np.concatenate([np.cos(turns) * window, np.sin(turns) * window])[:, None].astype(np.float32)


def made(weights: dict[str, Array]) -> bytes:
    """Return the graph, an ONNX model: `samples` [n, SAMPLES] -> `voice` [n, UNITS], of length 1."""
    graph = OnnxGraph()
    frames = _mel(graph, "samples")
    for layer in range(LAYERS):
        frames, last = _lstm(graph, frames, weights, layer)
    raw = graph.node(
        "Gemm",
        graph.node("Squeeze", last, graph.constant(np.array([0]))),
        _half(graph, weights["linear.weight"]),
        _half(graph, weights["linear.bias"]),
        transB=1,
    )
    voice = graph.node("Relu", raw)
    length = graph.node("ReduceL2", voice, axes=[1])
    floor = graph.constant(np.array([1e-9], np.float32))
    graph.rename(graph.node("Div", voice, graph.node("Max", length, floor)), "voice")
    return graph.encoded({"samples": (None, SAMPLES)}, {"voice": (None, UNITS)})


def _mel(graph: OnnxGraph, samples: str) -> str:
    """Add what turns samples [n, SAMPLES] into a spectrogram [frames, n, MELS]."""
    power = graph.node("ReduceMean", graph.node("Mul", samples, samples), axes=[1])
    rms = graph.node("Sqrt", graph.node("Max", power, graph.constant(np.array([1e-12], np.float32))))
    target = graph.constant(np.array([LEAST_RMS], np.float32))
    gain = graph.node("Max", graph.node("Div", target, rms), graph.constant(np.ones(1, np.float32)))
    sound = graph.node("Unsqueeze", graph.node("Mul", samples, gain), graph.constant(np.array([1])))
    padded = graph.node("Pad", sound, graph.constant(np.array([0, 0, FFT // 2, 0, 0, FFT // 2])))
    waves = graph.node("Conv", padded, graph.constant(spectrum_kernels()), strides=[HOP])
    parts = graph.constant(np.array([BINS, BINS]))
    real, imaginary = graph.nodes("Split", graph.node("Mul", waves, waves), parts, outputs=2, axis=1)
    rows = graph.node("Transpose", graph.node("Add", real, imaginary), perm=[2, 0, 1])
    mel = graph.node("MatMul", rows, graph.constant(mel_filters()))
    ends = [graph.constant(np.array([value])) for value in (0, FRAMES, 0)]
    return graph.node("Slice", mel, *ends)


def _lstm(graph: OnnxGraph, frames: str, weights: dict[str, Array], layer: int) -> tuple[str, str]:
    """Add a layer; return what it makes of [frames, n, _], and its last state [1, n, UNITS]."""
    kernel, recurrent, bias_in, bias_of = (
        _gates(weights[f"lstm.{name}_l{layer}"]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    biases = np.concatenate([bias_in, bias_of])
    every, last, _ = graph.nodes(
        "LSTM",
        frames,
        *(_half(graph, each[None]) for each in (kernel, recurrent, biases)),
        outputs=3,
        hidden_size=UNITS,
    )
    return graph.node("Squeeze", every, graph.constant(np.array([1]))), last


def _gates(values: Array) -> Array:
    """Put PyTorch's gates (input, forget, cell, output) in ONNX's order (input, output, forget, cell)."""
    entry, forget, cell, out = np.split(values, 4)
    return np.concatenate([entry, out, forget, cell])


def _half(graph: OnnxGraph, value: Array) -> str:
    return graph.node("Cast", graph.constant(value.astype(np.float16)), to=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(made(weights_of(wheel)))
    with zipfile.ZipFile(wheel) as files:
        TARGET.with_name("LICENSE").write_bytes(files.read(LICENSE))
    print(TARGET, TARGET.stat().st_size, hashlib.sha256(TARGET.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
