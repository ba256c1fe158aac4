"""Make the voice detection that ships, services/speech/silero_vad.onnx, out of Silero VAD as it is published.

    pip download silero-vad==6.2.3 --no-deps && pip install onnx
    python -m tools.make_silero silero_vad-6.2.3-py3-none-any.whl

Takes silero_vad_16k_sequence.onnx out of the wheel, if it has the hash PUBLISHED_SHA256, and writes the graph
and, beside it, Silero's licence. Weights are rearranged, never computed with: the graph is the same byte for
byte wherever it is made, and has the hash MADE_SHA256. (The wheel's silero_vad_16k.safetensors is no source:
it has the weights of another network than the wheel's .jit and .onnx files.)

What differs from the published graph is how its convolutions are calculated. A frame is four positions
long for the first of them and one for the last; onnxruntime multiplies each frame by itself, four columns
at a time. Here the frames of a call are the rows of one product, which takes a third of the time
(bench/experiments/vad.py) and differs in rounding only.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.services.onnx.writer import OnnxGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

PUBLISHED = "silero_vad/data/silero_vad_16k_sequence.onnx"  # in the wheel
PUBLISHED_SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
MADE_SHA256 = "f9dffc08548d397407ea33d0db3b30f5adbefb11335fa231624ef815c9c538d3"
LICENSE = "silero_vad-6.2.3.dist-info/licenses/LICENSE"
TARGET = Path(__file__).parents[1] / "whisper_server" / "services" / "speech" / "silero_vad.onnx"

FRAME = 576  # samples: 64 of the frame before, and 512
HOP = 128  # of the spectrum, whose windows have two of them
REFLECTED = 64  # samples that the end of a frame is mirrored by, to fill the last window
POSITIONS = 4  # windows of a frame
BINS = 129
UNITS = 128  # of the LSTM
TAPS = 3  # of each convolution, with a zero on both sides
STRIDES = (1, 2, 2, 1)
STATE = (1, 1, UNITS)  # the shape of the LSTM's h and of its c


def published(wheel: Path) -> bytes:
    """Return the published network, an ONNX model.

    Raises:
        ValueError: it is not the one whose wiring this module knows.
    """
    with zipfile.ZipFile(wheel) as files:
        model = files.read(PUBLISHED)
    return _checked(model, PUBLISHED_SHA256, PUBLISHED)


def made(model: bytes) -> bytes:
    """Return the graph made of the published one; inputs and outputs are the same.

    `input` float32 [n, 576], `h` and `c` [1, 1, 128] -> `speech_probs` [n], `hn` and `cn` [1, 1, 128].
    """
    weights = _weights(model)
    onnx = OnnxGraph()
    x = _magnitudes(onnx, weights["stft.forward_basis_buffer"])
    positions = POSITIONS
    for number, stride in enumerate(STRIDES):
        kernel, bias = (weights[f"encoder.{number}.{name}"] for name in ("weight", "bias"))
        x = _convolution(onnx, x, kernel, bias, positions=positions, stride=stride)
        positions = -(-positions // stride)
    _decoder(onnx, x, weights)
    state = {"h": STATE, "c": STATE}
    return onnx.encoded(
        {"input": (None, FRAME), **state}, {"speech_probs": (None,), "hn": STATE, "cn": STATE}
    )


def _weights(model: bytes) -> dict[str, Array]:
    import onnx

    stored = onnx.load_model_from_string(model).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}


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


def _convolution(onnx: OnnxGraph, x: str, kernel: Array, bias: Array, *, positions: int, stride: int) -> str:
    """Add a convolution with a zero on both sides, as one product over the inputs of its taps, and Relu.

    `kernel` [outputs, inputs, 3]; [n * positions, inputs] -> [n * ceil(positions / stride), outputs].
    """
    n_outputs, n_inputs, _ = kernel.shape
    x = onnx.node("Reshape", x, _integers(onnx, -1, positions, n_inputs))
    x = onnx.node("Pad", x, _integers(onnx, 0, 1, 0, 0, 1, 0))
    taps = [_slice(onnx, x, tap, tap + positions, axis=1, step=stride) for tap in range(TAPS)]
    x = onnx.node("Reshape", onnx.node("Concat", *taps, axis=2), _integers(onnx, -1, TAPS * n_inputs))
    matrix = np.ascontiguousarray(kernel.transpose(0, 2, 1)).reshape(n_outputs, -1)
    return onnx.node("Relu", _linear(onnx, x, matrix, bias))


def _decoder(onnx: OnnxGraph, x: str, weights: dict[str, Array]) -> None:
    """Add the LSTM over the frames and the probability that it ends in: [n, 128] -> the outputs."""
    x = onnx.node("Reshape", x, _integers(onnx, -1, 1, UNITS))
    lstm = [onnx.constant(weights[f"onnx::LSTM_{number}"]) for number in (209, 210, 211)]
    y, h, c = onnx.nodes("LSTM", x, *lstm, "", "h", "c", outputs=3, hidden_size=UNITS)
    onnx.rename(h, "hn")
    onnx.rename(c, "cn")
    y = onnx.node("Relu", onnx.node("Reshape", y, _integers(onnx, -1, UNITS)))
    y = onnx.node("Sigmoid", _linear(onnx, y, weights["output.weight"][:, :, 0], weights["output.bias"]))
    onnx.rename(onnx.node("Reshape", y, _integers(onnx, -1)), "speech_probs")


def _linear(onnx: OnnxGraph, x: str, matrix: Array, bias: Array) -> str:
    """Add x [n, k] * matrix [m, k]^T + bias [m]."""
    return onnx.node("Gemm", x, onnx.constant(matrix), onnx.constant(bias), transB=1)


def _slice(onnx: OnnxGraph, x: str, start: int, end: int, *, axis: int, step: int = 1) -> str:
    return onnx.node("Slice", x, *(_integers(onnx, value) for value in (start, end, axis, step)))


def _integers(onnx: OnnxGraph, *values: int) -> str:
    return onnx.constant(np.array(values, dtype=np.int64))


def _checked(content: bytes, sha256: str, what: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{what} has the SHA-256 {found}, not {sha256}")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    TARGET.write_bytes(_checked(made(published(wheel)), MADE_SHA256, TARGET.name))
    with zipfile.ZipFile(wheel) as files:
        TARGET.with_suffix(".LICENSE").write_bytes(files.read(LICENSE))


if __name__ == "__main__":
    main()
