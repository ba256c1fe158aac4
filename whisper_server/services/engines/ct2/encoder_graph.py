"""Whisper's encoder as an ONNX graph: what onnxruntime runs faster on a CPU than CTranslate2 does.

Owns the operators and how weights become 8-bit. Activations are scaled row by row (one row is one
position of the audio) before they are rounded to 8 bits: published Whisper weights make a few channels
and positions many times larger than the rest, and one scale for all would leave the others no bits.
bench/experiments/encoders.py has the figures of this choice and of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_server.services.onnx.writer import CONTRIBUTED, OnnxWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    ReadTensor = Callable[[str], NDArray[Any]]  # by its name in the encoder, "conv1.weight"

# Positions meet in the attention only. The other operators of a layer take them in so many pieces, one after
# the other: what one operator leaves for the next is still in the processor's cache, and memory holds one
# piece of it.
# It divides the number of positions, 1,500 or those of any number of STEP_FRAMES.
PIECES = 3
EPSILON = 1e-5  # of every layer normalisation, as in torch
LOWEST_GELU = 0.17  # GELU goes no further below zero than 0.16998
TINY = np.float32(1e-6)  # keeps divisions by what is all zeros finite
UNSIGNED_ZERO = 128  # what stands for zero where weights are unsigned
TYPICAL_PEAK = np.float32(3)  # standard deviations that a channel's largest values lie from its mean


@dataclass(slots=True)
class Affine:
    """`weight` [n, k] and `bias` [n] of a linear layer; [k] and [k] of a layer normalisation."""

    weight: Array
    bias: Array


@dataclass(slots=True)
class Layer:
    """The weights of one encoder layer; queries, keys and values in one matrix [3 d, d]."""

    attention_norm: Affine
    qkv: Affine
    attention_out: Affine
    mlp_norm: Affine
    fc1: Affine
    fc2: Affine


def write_encoder(
    path: Path, tensor: ReadTensor, *, layers: int, heads: int, graph: type[EncoderGraph]
) -> None:
    """Write the graph mel [1, n_mels, frames] -> hidden [1, frames / 2, d_model], float32, and its weights.

    `frames`: at most 3,000, of which 2 `PIECES` is a divisor.
    """
    with OnnxWriter(path) as onnx:
        graph(onnx, tensor).write(layers, heads)


class EncoderGraph:
    """The encoder in float32; subclasses multiply matrices in other ways."""

    def __init__(self, onnx: OnnxWriter, tensor: ReadTensor) -> None:
        self.onnx = onnx
        self._tensor = tensor

    def write(self, layers: int, heads: int) -> None:
        """Write all operators and save the graph."""
        onnx = self.onnx
        x = self._gelu(self._convolution("mel", "conv1", stride=1))
        x = self._gelu(self._convolution(x, "conv2", stride=2))
        x = onnx.node("Transpose", x, perm=(0, 2, 1))
        positions = self._read("embed_positions.weight")
        d_model = positions.shape[1]
        x = onnx.node("Add", x, self._first(onnx.weight(positions[None]), of=x))
        x = self._shaped(x, PIECES, -1, d_model)
        for index in range(layers):
            x = self._layer(x, self._read_layer(f"layers.{index}"), heads)
        x = self._shaped(x, 1, -1, d_model)
        onnx.rename(self._norm(x, self._affine("layer_norm")), "hidden")
        n_mels = self._tensor("conv1.weight").shape[1]
        onnx.save({"mel": (1, n_mels, None)}, {"hidden": (1, None, d_model)})

    def prepare(self, layer: Layer) -> None:
        """Change the weights of a layer, but not what it computes, before they are written."""

    def linear(self, x: str, layer: Affine, *, after_gelu: bool = False) -> str:  # noqa: ARG002
        """Multiply x [rows, k] by the weight, transposed, and add the bias."""
        product = self.onnx.node("MatMul", x, self.onnx.weight(layer.weight.T))
        return self.onnx.node("Add", product, self.onnx.weight(layer.bias))

    def _layer(self, x: str, layer: Layer, heads: int) -> str:
        """Take x [PIECES, positions / PIECES, d_model] through a layer."""
        self.prepare(layer)

        def before(x: str) -> list[str]:
            inputs = self.linear(self._norm(x, layer.attention_norm), layer.qkv)
            return self.onnx.nodes("Split", inputs, outputs=3, axis=-1)

        def after(x: str, mixed: str) -> list[str]:
            x = self.onnx.node("Add", x, self.linear(mixed, layer.attention_out))
            inner = self._gelu(self.linear(self._norm(x, layer.mlp_norm), layer.fc1))
            return [self.onnx.node("Add", x, self.linear(inner, layer.fc2, after_gelu=True))]

        d_model = len(layer.attention_out.bias)
        q, k, v = (self._shaped(each, 1, -1, d_model) for each in self.onnx.scan(before, x))
        mixed = self.onnx.node("MultiHeadAttention", q, k, v, domain=CONTRIBUTED, num_heads=heads)
        (x,) = self.onnx.scan(after, x, self._shaped(mixed, PIECES, -1, d_model))
        return x

    def _first(self, rows: str, *, of: str) -> str:
        """Return as many of the rows [1, n, d_model] as `of` has."""
        zero, axis = (self.onnx.constant(np.array([number], dtype=np.int64)) for number in (0, 1))
        length = self.onnx.node("Shape", of, start=1, end=2)
        return self.onnx.node("Slice", rows, zero, length, axis)

    def _shaped(self, x: str, *shape: int) -> str:
        return self.onnx.node("Reshape", x, self.onnx.constant(np.array(shape, dtype=np.int64)))

    def _convolution(self, x: str, name: str, *, stride: int) -> str:
        layer = self._affine(name)
        weight, bias = self.onnx.weight(layer.weight), self.onnx.weight(layer.bias)
        return self.onnx.node("Conv", x, weight, bias, kernel_shape=(3,), pads=(1, 1), strides=(stride,))

    def _norm(self, x: str, norm: Affine) -> str:
        weight, bias = self.onnx.weight(norm.weight), self.onnx.weight(norm.bias)
        return self.onnx.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=EPSILON)

    def _gelu(self, x: str) -> str:
        return self.onnx.node("Gelu", x, domain=CONTRIBUTED)

    def _read(self, name: str) -> Array:
        return self._tensor(name).astype(np.float32)

    def _affine(self, name: str) -> Affine:
        return Affine(self._read(f"{name}.weight"), self._read(f"{name}.bias"))

    def _read_layer(self, name: str) -> Layer:
        own = f"{name}.self_attn"
        q, v = self._affine(f"{own}.q_proj"), self._affine(f"{own}.v_proj")
        k = self._read(f"{own}.k_proj.weight")  # keys have no bias in Whisper
        qkv = Affine(
            np.concatenate([q.weight, k, v.weight]),
            np.concatenate([q.bias, np.zeros(len(k), dtype=np.float32), v.bias]),
        )
        return Layer(
            attention_norm=self._affine(f"{name}.self_attn_layer_norm"),
            qkv=qkv,
            attention_out=self._affine(f"{own}.out_proj"),
            mlp_norm=self._affine(f"{name}.final_layer_norm"),
            fc1=self._affine(f"{name}.fc1"),
            fc2=self._affine(f"{name}.fc2"),
        )


class EightBitEncoder(EncoderGraph):
    """The encoder with 8-bit matrices, one scale per output channel, and 8-bit activations.

    Attention, normalisation and convolutions stay float32.
    """

    def prepare(self, layer: Layer) -> None:
        """Move large channels half into the weights (SmoothQuant, Xiao et al., 2023, alpha 0.5).

        The sizes of the activations are not measured on audio but follow from the weights: what
        leaves a normalisation has standard deviation `weight` and mean `bias` in each channel.
        """
        for norm, after in ((layer.attention_norm, layer.qkv), (layer.mlp_norm, layer.fc1)):
            share = _share(TYPICAL_PEAK * np.abs(norm.weight) + np.abs(norm.bias), after.weight)
            norm.weight, norm.bias = norm.weight / share, norm.bias / share
            after.weight = after.weight * share
        d_model = len(layer.attention_out.bias)
        value = layer.qkv.weight[-d_model:], layer.qkv.bias[-d_model:]
        deviation: Array = np.linalg.norm(value[0] * layer.attention_norm.weight, axis=1).astype(np.float32)
        share = _share(TYPICAL_PEAK * deviation + np.abs(value[1]), layer.attention_out.weight)
        value[0][:] /= share[:, None]
        value[1][:] /= share
        layer.attention_out.weight = layer.attention_out.weight * share

    def linear(self, x: str, layer: Affine, *, after_gelu: bool = False) -> str:
        """Multiply x [rows, k] in 8 bits by the weight, transposed, and add the bias.

        Every row is divided by its largest value first and its result multiplied by it: then the one
        scale that the operator takes for the whole of x suits every row.
        """
        onnx = self.onnx
        scale = np.maximum(np.abs(layer.weight).max(axis=1), TINY) / np.float32(127)
        matrix = self.matrix(np.rint(layer.weight / scale[:, None]).T, scale)
        peak = self._peak(x, after_gelu=after_gelu)
        product = onnx.node("DynamicQuantizeMatMul", onnx.node("Div", x, peak), *matrix, domain=CONTRIBUTED)
        # A bias of two dimensions keeps onnxruntime from fusing it with GELU, which takes it twice as long.
        return onnx.node("Add", onnx.node("Mul", product, peak), onnx.weight(layer.bias[None]))

    def matrix(self, rounded: Array, scale: Array) -> tuple[str, ...]:
        """Store whole numbers [k, n] of -127 to 127, and by what they are multiplied, [n]."""
        return self.onnx.weight(rounded.astype(np.int8)), self.onnx.weight(scale)

    def _peak(self, x: str, *, after_gelu: bool) -> str:
        """Return the largest absolute value of each row, or a bound of it that is cheaper."""
        onnx = self.onnx
        highest = onnx.node("ReduceMax", x, axes=(-1,), keepdims=1)
        if after_gelu:
            return onnx.node("Max", highest, onnx.constant(np.array(LOWEST_GELU, dtype=np.float32)))
        lowest = onnx.node("Neg", onnx.node("ReduceMin", x, axes=(-1,), keepdims=1))
        return onnx.node("Max", highest, lowest, onnx.constant(np.array(TINY, dtype=np.float32)))


class UnsignedEncoder(EightBitEncoder):
    """The same numbers, for processors whose signed products overflow; slower on all others."""

    def matrix(self, rounded: Array, scale: Array) -> tuple[str, ...]:
        """Store the numbers from 1 on, and where their zero is."""
        weight = (rounded + UNSIGNED_ZERO).astype(np.uint8)
        zero = self.onnx.constant(np.array(UNSIGNED_ZERO, dtype=np.uint8))
        return self.onnx.weight(weight), self.onnx.weight(scale), zero


def _share(peak: Array, weight: Array) -> Array:
    """Return by how much to divide each channel [k] so that it weighs as much in x as in weight [n, k]."""
    columns = np.abs(weight).max(axis=0)
    share: Array = np.sqrt(np.maximum(peak, TINY) / np.maximum(columns, TINY)).astype(np.float32)
    return share


GRAPHS: dict[str, type[EncoderGraph]] = {
    "int8": EightBitEncoder,
    "uint8": UnsignedEncoder,
    "float32": EncoderGraph,
}
