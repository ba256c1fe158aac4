"""Silero VAD's network as products of matrices, which take a third of the time of its convolutions.

A frame is four positions long for the first convolution and one for the last: so short that a convolution
over all of them is one matrix. onnxruntime would multiply each frame of the file's graph by itself, four
columns at a time; here the frames of a call are the rows of one product. What comes out differs in
rounding only. bench/vad.py measures both.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.services.engines.onnx_file import OnnxGraph
from whisper_server.services.engines.onnx_tensors import float_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

# silero_vad_v6.onnx of faster-whisper 1.2.1: whose wiring this module knows.
KNOWN_SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"

FRAME = 576  # samples: 64 of the frame before, and 512
HOP = 128  # of the spectrum, whose windows have two of them
REFLECTED = 64  # samples that the end of a frame is mirrored by, to fill the last window
POSITIONS = 4  # windows of a frame
BINS = 129
UNITS = 128  # of the LSTM
STRIDES = (1, 2, 2, 1)  # of the convolutions, each of three taps, with a zero on both sides
STATE = (1, 1, UNITS)  # the shape of its h and of its c


def in_matrices(model: bytes) -> bytes:
    """Return a model of the same inputs and outputs that is faster, or the model itself if it is not known.

    `input` float32 [n, 576], `h` and `c` [1, 1, 128] -> `speech_probs` [n], `hn` and `cn` [1, 1, 128].
    """
    if hashlib.sha256(model).hexdigest() != KNOWN_SHA256:
        return model
    weights = float_tensors(model)
    onnx = OnnxGraph()
    x = _magnitudes(onnx, weights["encoder.feature_extractor.forward_basis_buffer"])
    x = _convolutions(onnx, x, weights)
    _decoder(onnx, x, weights)
    state = {"h": STATE, "c": STATE}
    return onnx.encoded(
        {"input": (None, FRAME), **state}, {"speech_probs": (None,), "hn": STATE, "cn": STATE}
    )


def _magnitudes(onnx: OnnxGraph, basis: Array) -> str:
    """Add the spectrum: `input` -> [n * 4, 129]; `basis` [258, 1, 256] has cosines, then sines."""
    last = FRAME - 2  # the last sample itself is not repeated
    mirrored = _slice(onnx, "input", last, last - REFLECTED, axis=1, step=-1)
    x = onnx.node("Concat", "input", mirrored, axis=1)
    hops = onnx.node("Reshape", x, _integers(onnx, -1, POSITIONS + 1, HOP))
    first, second = _slice(onnx, hops, 0, POSITIONS, axis=1), _slice(onnx, hops, 1, POSITIONS + 1, axis=1)
    x = onnx.node("Reshape", onnx.node("Concat", first, second, axis=2), _integers(onnx, -1, 2 * HOP))
    x = onnx.node("MatMul", x, onnx.constant(np.ascontiguousarray(basis[:, 0].T)))
    parts = onnx.nodes("Split", x, _integers(onnx, BINS, BINS), outputs=2, axis=1)
    return onnx.node("Sqrt", onnx.node("Add", *(onnx.node("Mul", part, part) for part in parts)))


def _convolutions(onnx: OnnxGraph, x: str, weights: dict[str, Array]) -> str:
    """Add the four convolutions: [n * 4, 129] -> [n, 128]."""
    x = onnx.node("Reshape", x, _integers(onnx, -1, POSITIONS * BINS))
    positions = POSITIONS
    for number, stride in enumerate(STRIDES):
        kernel, bias = (weights[f"encoder.conv_layers.{number}.{name}"] for name in ("weight", "bias"))
        matrix = convolution_matrix(kernel, positions, stride)
        positions = -(-positions // stride)
        x = onnx.node("Relu", _linear(onnx, x, matrix, np.tile(bias, positions)))
    return x


def convolution_matrix(kernel: Array, positions: int, stride: int) -> Array:
    """Return a convolution with three taps and a zero on both sides as one matrix.

    `kernel` [outputs, inputs, 3] -> [positions / stride (rounded up) * outputs, positions * inputs].
    """
    n_outputs, n_inputs, n_taps = kernel.shape
    after = -(-positions // stride)
    matrix = np.zeros((after, n_outputs, positions, n_inputs), dtype=np.float32)
    for place in range(after):
        for tap in range(n_taps):
            source = place * stride + tap - 1
            if 0 <= source < positions:
                matrix[place, :, source] = kernel[:, :, tap]
    return matrix.reshape(after * n_outputs, positions * n_inputs)


def _decoder(onnx: OnnxGraph, x: str, weights: dict[str, Array]) -> None:
    """Add the LSTM over the frames and the probability that it ends in: [n, 128] -> the outputs."""
    x = onnx.node("Reshape", x, _integers(onnx, -1, 1, UNITS))
    lstm = [onnx.constant(weights[f"onnx::LSTM_{number}"]) for number in (209, 210, 211)]
    y, h, c = onnx.nodes("LSTM", x, *lstm, "", "h", "c", outputs=3, hidden_size=UNITS)
    onnx.rename(h, "hn")
    onnx.rename(c, "cn")
    y = onnx.node("Relu", onnx.node("Reshape", y, _integers(onnx, -1, UNITS)))
    kernel, bias = weights["decoder.conv1d.weight"], weights["decoder.conv1d.bias"]
    y = onnx.node("Sigmoid", _linear(onnx, y, kernel[:, :, 0], bias))
    onnx.rename(onnx.node("Reshape", y, _integers(onnx, -1)), "speech_probs")


def _linear(onnx: OnnxGraph, x: str, matrix: Array, bias: Array) -> str:
    """Add x [n, k] * matrix [m, k]^T + bias [m]."""
    return onnx.node("Gemm", x, onnx.constant(matrix), onnx.constant(bias), transB=1)


def _slice(onnx: OnnxGraph, x: str, start: int, end: int, *, axis: int, step: int = 1) -> str:
    return onnx.node("Slice", x, *(_integers(onnx, value) for value in (start, end, axis, step)))


def _integers(onnx: OnnxGraph, *values: int) -> str:
    return onnx.constant(np.array(values, dtype=np.int64))
