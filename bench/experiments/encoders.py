"""Ways to run Whisper's encoder on this CPU: time on one thread, and error against float32.

    python -m bench.experiments.encoders tiny base --rounds 5

Time is that of the processor, not of the clock, on one thread: other programs disturb it less. The
ratio is to CTranslate2's int8 encoder, in the same round. Errors are relative to onnxruntime's float32
output, on real speech; for the last two columns the weights were changed as published ones are known to
be: "channels" makes five channels of every layer normalisation and of the values 30 times larger and
what reads them 30 times smaller, which changes nothing in exact arithmetic; "positions" makes one
channel of ten positions very large.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import ctranslate2
import numpy as np
from numpy.typing import NDArray

from bench.grow import NANO, SHAPES, grow
from whisper_server.services.engines.checkpoint import Checkpoint, read_config
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.encoder_graph import (
    Affine,
    EightBitEncoder,
    EncoderGraph,
    Layer,
    write_encoder,
)
from whisper_server.services.onnx.runtime import onnxruntime
from whisper_server.services.onnx.writer import CONTRIBUTED
from whisper_server.services.speech.log_mel import log_mel

Array = NDArray[np.float32]
Encode = Callable[[Array], Array]  # [n_mels, 3000] -> [1500, d_model]

REFERENCE = "onnxruntime float32"
PEER = "CTranslate2 int8"
N_WINDOWS = 4
OUTLIERS = 5
OUTLIER_FACTOR = np.float32(30)


class PerTensor(EightBitEncoder):
    """One scale for all positions, weights as they are: what quantisation tools write."""

    def prepare(self, layer: Layer) -> None:
        pass

    def linear(self, x: str, layer: Affine, *, after_gelu: bool = False) -> str:  # noqa: ARG002
        onnx = self.onnx
        scale = np.abs(layer.weight).max(axis=1).clip(1e-6) / np.float32(127)
        weight = np.rint(layer.weight / scale[:, None]).astype(np.int8)
        inputs = (x, onnx.weight(weight.T), onnx.weight(scale), "", onnx.weight(layer.bias))
        return onnx.node("DynamicQuantizeMatMul", *inputs, domain=CONTRIBUTED)


class PerTensorMlp(PerTensor):
    """8 bits in the two large matrices of each layer only."""

    def linear(self, x: str, layer: Affine, *, after_gelu: bool = False) -> str:
        is_mlp = 4 in (len(layer.bias) / layer.weight.shape[1], layer.weight.shape[1] / len(layer.bias))
        return (PerTensor if is_mlp else EncoderGraph).linear(self, x, layer, after_gelu=after_gelu)


class PerRow(EightBitEncoder):
    """One scale per position, weights as they are."""

    def prepare(self, layer: Layer) -> None:
        pass


class PerBlock(EncoderGraph):
    """One scale per 32 inputs, for weights and activations."""

    block = 32
    accuracy_level = 4  # multiply in 8 bits

    def linear(self, x: str, layer: Affine, *, after_gelu: bool = False) -> str:  # noqa: ARG002
        onnx, (n, k) = self.onnx, layer.weight.shape
        blocks = layer.weight.reshape(n, k // self.block, self.block)
        scale = np.abs(blocks).max(axis=2).clip(1e-6) / np.float32(127)
        weight = (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8)
        inputs = (x, onnx.weight(weight), onnx.weight(scale.reshape(-1)), "", "", onnx.weight(layer.bias))
        sizes = {"K": k, "N": n, "bits": 8, "block_size": self.block, "accuracy_level": self.accuracy_level}
        return onnx.node("MatMulNBits", *inputs, domain=CONTRIBUTED, **sizes)


class PerWideBlock(PerBlock):
    """One scale per 128 inputs."""

    block = 128


class PerBlockWeights(PerBlock):
    """8 bits in memory, float32 arithmetic."""

    accuracy_level = 1


GRAPHS: dict[str, type[EncoderGraph]] = {
    REFERENCE: EncoderGraph,
    "8 bits, scale per tensor": PerTensor,
    "8 bits, scale per tensor, MLP only": PerTensorMlp,
    "8 bits, scale per row": PerRow,
    "8 bits, scale per row, channels balanced": EightBitEncoder,
    "8 bits, scale per 32": PerBlock,
    "8 bits, scale per 128": PerWideBlock,
    "8-bit weights only": PerBlockWeights,
}


def sample_mels(count: int) -> Array:
    """Return the spectrograms [count, 80, 3000] of the first plain samples."""
    clips = json.loads((NANO / "samples" / "clips.json").read_text())
    names = [clip["file"] for clip in clips if clip["kind"] == "plain"][:count]
    return np.stack([log_mel(_samples(NANO / "samples" / name), 80) for name in names])


def _samples(path: Path) -> Array:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(path)) as container:
        pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def with_outliers(folder: Path, target: Path, kind: str) -> Path:
    """Write the model to `target` with large "channels" or "positions"."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, target, dirs_exist_ok=True)
    weights = {name: one.astype(np.float32) for name, one in load_file(folder / "model.safetensors").items()}
    random = np.random.default_rng(1)
    channels = random.choice(len(weights["model.encoder.conv1.bias"]), OUTLIERS, replace=False)
    if kind == "positions":
        places = random.choice(1500, 10, replace=False)
        weights["model.encoder.embed_positions.weight"][places, channels[0]] += 100
    else:
        for name in [name for name in weights if name.startswith("model.encoder.layers.")]:
            part = name.removeprefix("model.encoder.layers.").partition(".")[2]
            if part.startswith(("self_attn_layer_norm", "final_layer_norm", "self_attn.v_proj")):
                weights[name][channels] *= OUTLIER_FACTOR
            if part in {f"self_attn.{one}_proj.weight" for one in ("q", "k", "v", "out")} | {"fc1.weight"}:
                weights[name][:, channels] /= OUTLIER_FACTOR
    save_file(weights, target / "model.safetensors")
    return target


def encoders(folder: Path, work: Path) -> dict[str, Encode]:
    """Return every way to encode with the model in `folder`, on one thread."""
    config, checkpoint = read_config(folder), Checkpoint(folder)
    found: dict[str, Encode] = {}
    for index, (name, graph) in enumerate(GRAPHS.items()):
        path = work / f"{folder.name}-{index}.onnx"
        sizes = {"layers": config["encoder_layers"], "heads": config["encoder_attention_heads"]}
        write_encoder(path, lambda one: checkpoint.tensor(f"encoder.{one}"), **sizes, graph=graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found[name] = lambda mel, session=session: session.run(None, {"mel": mel[None]})[0][0]
    for kind in ("int8", "float32"):
        model = ctranslate2.models.Whisper(
            str(ensure_converted(folder, work, kind)), device="cpu", compute_type=kind, intra_threads=1
        )
        found[f"CTranslate2 {kind}"] = lambda mel, model=model: np.asarray(
            model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None])))
        )[0]
    return found


def errors(ways: dict[str, Encode], mels: Array) -> dict[str, float]:
    """Return the relative error of each way, over all windows."""
    wanted = np.stack([ways[REFERENCE](mel) for mel in mels])
    size = np.linalg.norm(wanted)
    return {
        name: float(np.linalg.norm(np.stack([encode(mel) for mel in mels]) - wanted) / size)
        for name, encode in ways.items()
    }


def times(ways: dict[str, Encode], mel: Array, rounds: int) -> dict[str, list[float]]:
    """Return processor seconds, one per round; all ways take turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, encode in ways.items():
            started = time.process_time()
            encode(mel)
            spent[name].append(time.process_time() - started)
    return spent


def measure(size: str, rounds: int, work: Path) -> None:
    folder, mels = grow(SHAPES[size], work / size), sample_mels(N_WINDOWS)
    ways = encoders(folder, work)
    spent = times(ways, mels[0], rounds)
    columns = [errors(ways, mels)]
    del ways
    columns += [
        errors(encoders(with_outliers(folder, work / f"{size}-{kind}", kind), work), mels[:2])
        for kind in ("channels", "positions")
    ]
    print(f"\n| {size} | s | times faster | error | channels | positions |\n|{' --- |' * 6}")
    for name, seconds in spent.items():
        ratio = np.median(np.array(spent[PEER]) / np.array(seconds))
        shown = " | ".join(f"{100 * column[name]:.2f} %" for column in columns)
        print(f"| {name} | {np.median(seconds):.2f} | {ratio:.2f} | {shown} |", flush=True)


def main() -> None:
    """Print one table per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sizes", nargs="+", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for size in arguments.sizes:
            measure(size, arguments.rounds, Path(work))


if __name__ == "__main__":
    main()
