"""Folders of CTranslate2: what is in one, which were converted from a model, what one takes in memory.

Reads files and imports no library: what lies on the disk is asked for when nothing is loaded. The header of
model.bin is that of ctranslate2.specs.model_spec: version, name and revision of the spec, the number of
variables, and for each of them name, shape, type and bytes.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.checkpoint import broken, read_config, read_json
from whisper_server.services.engines.model_bounds import check_shape, check_tokens
from whisper_server.services.engines.model_shape import ModelShape

if TYPE_CHECKING:
    from collections.abc import Iterator

CONVERTED = "converted"  # in the cache: the folder of all conversions
MODEL_FILE = "model.bin"
ENCODER_FILE = "encoder.onnx"  # of a conversion; its weights are beside it, in `encoder.onnx.data`
MARKER = "conversion.json"  # written last: what each file was, and the folder they were made from
SPEC_NAME = "WhisperSpec"  # in the header of model.bin

_MAX_VARIABLES = 1 << 17  # of model.bin; large-v3 has 3,000
_MAX_RANK = 8

_DECODER_LAYER = re.compile(r"decoder/layer_(\d+)/")


def conversions_of(folder: Path, cache_dir: Path) -> tuple[Path, ...]:
    """Return what was converted from `folder`, in any number format, also from files that it had before."""
    found = []
    for marker in sorted((cache_dir / CONVERTED).glob(f"*/{MARKER}")):
        source = _marker_of(marker.parent).get("source")
        if source == str(folder.resolve()) and is_whole(marker.parent):
            found.append(marker.parent)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """What a file of a conversion was when it was finished."""

    size_bytes: int
    sha256: str


def recorded_files(folder: Path) -> dict[str, RecordedFile]:
    """Return the files of a conversion by name, as its marker has them; none where it says nothing."""
    try:
        files = _marker_of(folder)["files"]
        found = {str(name): RecordedFile(each["size"], each["sha256"]) for name, each in files.items()}
    except (LookupError, TypeError, AttributeError):
        return {}
    is_inside = all(Path(name).name == name for name in found)
    return found if MODEL_FILE in found and is_inside else {}


def is_whole(folder: Path) -> bool:
    """Tell whether a conversion has all of its files, in their sizes; `seal` reads what is in them."""
    files = recorded_files(folder)
    try:
        return bool(files) and all(
            (folder / name).stat().st_size == each.size_bytes for name, each in files.items()
        )
    except OSError:
        return False


def fingerprint_of(folder: Path) -> str:
    """Return the fingerprint of the checkpoint that a folder was converted from, "" where nothing says so."""
    return str(_marker_of(folder).get("fingerprint", ""))


def _marker_of(folder: Path) -> dict[str, Any]:
    """Return what the marker of a conversion says, {} where it says nothing; it may be anything by now."""
    try:
        return read_json(folder, MARKER)
    except ModelUnavailable:
        return {}


def is_ctranslate2(folder: Path) -> bool:
    """Tell whether model.bin is a CTranslate2 Whisper model (binary format of ctranslate2.specs)."""
    if not folder.is_dir():
        raise broken(folder, "there is no such folder")
    path = folder / MODEL_FILE
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            _take(file, "I")  # version of the format
            name = _name(file)
    except (struct.error, UnicodeDecodeError):
        name = ""
    if name != SPEC_NAME:
        raise broken(folder, f"model.bin is no CTranslate2 Whisper model ({name[:40]!r})")
    return True


def check_folder(folder: Path) -> None:
    """Check the numbers that a folder of CTranslate2 names, before the library gets them; reads headers only.

    Raises:
        ModelUnavailable: they are none of a Whisper model.
    """
    shape = shape_of(folder)
    try:
        check_tokens(read_json(folder, "config.json"), shape.vocabulary)
    except ValueError as error:
        raise broken(folder, f"in config.json {error}") from error


def weight_bytes(folder: Path) -> int:
    """Return what converted weights take in memory, by their files.

    Those of onnxruntime's encoder are there twice: for a lone call, and for calls that share the cores.
    """
    files = {folder / MODEL_FILE: 1, folder / f"{ENCODER_FILE}.data": 2}
    return sum(times * path.stat().st_size for path, times in files.items() if path.is_file())


def shape_of(folder: Path) -> ModelShape:
    """Return the sizes of the model in a folder of CTranslate2 or Hugging Face; reads headers only.

    Raises:
        ModelUnavailable: it is neither, or damaged.
    """
    path = folder / MODEL_FILE
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
    shape = ModelShape(d_model, max(layers) + 1, vocabulary)
    check_shape(shape)
    return shape


def _variables(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every variable, without reading what it holds."""
    _take(file, "I")  # version of the format
    _name(file)
    _take(file, "I")  # revision of the spec
    (count,) = _take(file, "I")
    end = os.fstat(file.fileno()).st_size
    if count > _MAX_VARIABLES:
        raise ValueError(f"model.bin has {count} variables, more than {_MAX_VARIABLES}")
    for _ in range(count):
        name = _name(file)
        (rank,) = _take(file, "B")
        if rank > _MAX_RANK:
            raise ValueError(f"{name[:80]!r} has {rank} dimensions, more than {_MAX_RANK}")
        shape = _take(file, f"{rank}I")
        _type, size_bytes = _take(file, "BI")
        if file.tell() + size_bytes > end:
            raise ValueError(f"model.bin ends before {name[:80]!r} does")
        yield name, shape
        file.seek(size_bytes, 1)


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _name(file: BinaryIO) -> str:
    (length,) = _take(file, "H")
    return file.read(length).rstrip(b"\0").decode()
