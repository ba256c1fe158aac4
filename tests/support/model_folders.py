"""Model folders to be damaged: copies of the nano model, and numbers put into their files."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from tests.conftest import NANO


def nano_copy(folder: Path) -> Path:
    """Copy the nano model without its samples."""
    return shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples"))


def edit(folder: Path, name: str, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def set_variable(model_bin: Path, name: str, data: bytes) -> None:
    """Overwrite the first bytes of a variable in a model.bin of CTranslate2."""
    content = bytearray(model_bin.read_bytes())
    written = name.encode() + b"\0"
    start = content.index(struct.pack("<H", len(written)) + written) + 2 + len(written)
    rank = content[start]
    start += 1 + 4 * rank + 1 + 4
    content[start : start + len(data)] = data
    model_bin.write_bytes(content)


def damage(path: Path, kind: str) -> None:
    """Make a file rot, in its size: what a power cut or a disk leaves."""
    content = bytearray(path.read_bytes())
    if kind == "zeros":
        content = bytearray(len(content))
    elif kind == "garbage":
        content[:] = bytes(range(7, 256)) * (len(content) // 249 + 1)
        del content[path.stat().st_size :]
    elif kind == "one bit":
        content[len(content) // 2] ^= 1
    elif kind == "header":
        content[:64] = b"\xff" * min(64, len(content))
    path.write_bytes(content)
