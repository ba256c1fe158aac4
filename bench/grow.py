"""Grow the bundled nano Whisper to the shapes of the published sizes without a change of function.

    python -m bench.grow small build/small

The grown model writes the same tokens, stops where the small one stops, and costs what its size costs:
an honest stand-in for published weights where timing is the question. With r copies of the channels a
linear layer becomes `tile(W, (r, r)) / r`, so every copy computes what the one did; heads stay 64 wide
and become r times as many; layers that the nano model lacks are copies of its last one whose output
projections are all but zero: identities. No two of them are equal, or a library that keeps equal matrices
once (onnxruntime) would seem to need less memory than it does.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NANO = Path(__file__).parent.parent / "models" / "nano-whisper"
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)")
_MUTED = ("self_attn.out_proj.", "encoder_attn.out_proj.", "fc2.")  # what a layer adds to its input
_MUTED_SIZE = 1e-6  # of their weights: float16 still tells them apart, and what they add is small
_VARIED = 0.05  # how far weights differ that only muted ones read
_COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Shape:
    """A published size: copies of the nano model's channels, and layers on either side."""

    copies: int
    layers: int


SHAPES = {
    "tiny": Shape(3, 4),
    "base": Shape(4, 6),
    "small": Shape(6, 12),
    "medium": Shape(8, 24),
    "large-v2": Shape(10, 32),
}


def grow(shape: Shape, folder: Path) -> Path:
    """Write the grown checkpoint, float16, into `folder`; return it. What is complete there is kept."""
    if (folder / "config.json").is_file():
        return folder
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(NANO / "model.safetensors")
    chance = np.random.default_rng(0)
    grown = {}
    for name, tensor, is_new in _deepened(weights, shape.layers):
        wide = _widened(name, tensor.astype(np.float32), shape.copies)
        if is_new and wide.ndim == 2:
            wide = _varied(name, wide, chance)
        grown[name] = np.ascontiguousarray(wide, dtype=np.float16)
    save_file(grown, folder / "model.safetensors", metadata={"format": "pt"})
    for name in _COPIED:
        shutil.copy(NANO / name, folder / name)
    generation = json.loads((NANO / "generation_config.json").read_text())
    generation["alignment_heads"] = [[3, 2 * copy] for copy in range(shape.copies)]
    (folder / "generation_config.json").write_text(json.dumps(generation))
    config = json.loads((NANO / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | _dimensions(config, shape)))  # last: complete
    return folder


def _dimensions(config: dict[str, Any], shape: Shape) -> dict[str, int]:
    wide = ("d_model", "encoder_attention_heads", "decoder_attention_heads")
    wide += ("encoder_ffn_dim", "decoder_ffn_dim")
    deep = ("encoder_layers", "decoder_layers", "num_hidden_layers")
    return {name: config[name] * shape.copies for name in wide} | dict.fromkeys(deep, shape.layers)


def _deepened(
    weights: dict[str, NDArray[np.float16]], n_layers: int
) -> Iterator[tuple[str, NDArray[np.float16], bool]]:
    """Yield the nano tensors and, marked as new, those of the layers it lacks, which change nothing."""
    last: dict[str, int] = {}
    for name in weights:
        if found := _LAYER.fullmatch(name):
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    for name, tensor in weights.items():
        yield name, tensor, False
        found = _LAYER.fullmatch(name)
        if found and int(found[2]) == last[found[1]]:
            for layer in range(last[found[1]] + 1, n_layers):
                is_muted = found[3].startswith(_MUTED)
                added = np.zeros_like(tensor) if is_muted else tensor
                yield f"model.{found[1]}.layers.{layer}.{found[3]}", added, True


def _widened(name: str, tensor: NDArray[np.float32], copies: int) -> NDArray[np.float32]:
    """Return the tensor with `copies` of the channels, each computing what the one did."""
    if name.startswith("model.decoder.layer_norm."):
        return np.tile(tensor, copies) / copies  # the tied output projection sums the copies
    if tensor.ndim == 1:
        return np.tile(tensor, copies)
    if "embed_" in name:
        return np.tile(tensor, (1, copies))
    if name == "model.encoder.conv1.weight":  # [channels, mels, 3]: the mels stay
        return np.tile(tensor, (copies, 1, 1))
    return np.tile(tensor, (copies, copies, *[1] * (tensor.ndim - 2))) / copies


def _varied(name: str, weight: NDArray[np.float32], chance: np.random.Generator) -> NDArray[np.float32]:
    """Make the matrix of a layer that changes nothing different from all others."""
    noise = chance.standard_normal(weight.shape, dtype=np.float32)
    found = _LAYER.fullmatch(name)
    assert found is not None
    return noise * _MUTED_SIZE if found[3].startswith(_MUTED) else weight * (1 + _VARIED * noise)


def main() -> None:
    """Grow one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(grow(SHAPES[arguments.size], arguments.folder))


if __name__ == "__main__":
    main()
