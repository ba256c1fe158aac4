"""What the memory of a batch depends on: the sizes of a model, read from its folder without loading it.

The header of CTranslate2's model.bin is that of ctranslate2.specs.model_spec: version, name and revision
of the spec, the number of variables, and for each of them name, shape, type and bytes.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from whisper_server.services.engines.checkpoint import broken, read_config

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_CHANNELS = 64  # of one attention head, in every Whisper
_DECODER_LAYER = re.compile(r"decoder/layer_(\d+)/")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a Whisper model."""

    d_model: int
    decoder_layers: int
    vocabulary: int

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.d_model // HEAD_CHANNELS


def shape_of(folder: Path) -> ModelShape:
    """Return the sizes of the model in a folder of CTranslate2 or Hugging Face; reads headers only.

    Raises:
        ModelUnavailable: it is neither, or damaged.
    """
    path = folder / "model.bin"
    try:
        if path.is_file():
            with path.open("rb") as file:
                return _shape_of_variables(dict(_variables(file)))
        config = read_config(folder)
        return ModelShape(config["d_model"], config["decoder_layers"], config["vocab_size"])
    except (OSError, struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise broken(folder, f"its sizes cannot be read: {error!r}") from error


def _shape_of_variables(shapes: dict[str, tuple[int, ...]]) -> ModelShape:
    vocabulary, d_model = shapes["decoder/embeddings/weight"]
    layers = [int(found[1]) for name in shapes if (found := _DECODER_LAYER.match(name))]
    return ModelShape(d_model, max(layers) + 1, vocabulary)


def _variables(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every variable, without reading what it holds."""
    _take(file, "I")  # version of the format
    _name(file)
    _take(file, "I")  # revision of the spec
    (count,) = _take(file, "I")
    for _ in range(count):
        name = _name(file)
        (rank,) = _take(file, "B")
        shape = _take(file, f"{rank}I")
        _type, size_bytes = _take(file, "BI")
        yield name, shape
        file.seek(size_bytes, 1)


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _name(file: BinaryIO) -> str:
    (length,) = _take(file, "H")
    return file.read(length).rstrip(b"\0").decode()
