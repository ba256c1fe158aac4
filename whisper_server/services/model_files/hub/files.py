"""Which files of a repository a model needs, whether they arrived whole, and the record of that."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CTRANSLATE2_FILE = "model.bin"
CTRANSLATE2_VOCABULARIES = frozenset({"vocabulary.json", "vocabulary.txt"})
SIDE_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "normalizer.json",
    }
)

COMMIT = re.compile(r"[0-9a-f]{7,64}")  # its hash, whole or shortened; the name of its folder
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors", re.ASCII)
_READ_BYTES = 1 << 20


def choose(names: Iterable[str]) -> list[str]:
    """Return the files of a repository that are needed: one set of weights, and never a pickled one.

    Empty where the repository holds no Whisper model in safetensors or CTranslate2 format.
    """
    there = set(names)
    side = there & SIDE_FILES
    if CTRANSLATE2_FILE in there and there & CTRANSLATE2_VOCABULARIES:
        weights = {CTRANSLATE2_FILE} | (there & CTRANSLATE2_VOCABULARIES)
    elif SINGLE_FILE in there:
        weights = {SINGLE_FILE}
    elif INDEX_FILE in there:
        weights = {INDEX_FILE} | {name for name in there if _SHARD.fullmatch(name)}
    else:
        return []
    return sorted(side | weights) if "config.json" in side else []


def recorded(marker: Path) -> Path | None:
    """Return the folder of a finished download, if its files are still there."""
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        folder: Path = marker.parent / record["commit"]
        is_whole = all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if is_whole else None


def commit_of(marker: Path) -> str | None:
    """Return the commit that a marker names, which is the name of its folder; None where it is damaged."""
    try:
        commit = json.loads(marker.read_text(encoding="utf-8"))["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None


def loose_folders(home: Path) -> tuple[Path, ...]:
    """Return the folders of a repository that no record names: downloads that ended early."""
    named = {commit_of(marker) for marker in home.glob("*.json")}
    folders = (path for path in home.glob("*") if COMMIT.fullmatch(path.name) and path.is_dir())
    return tuple(path for path in folders if path.name not in named)


def record(marker: Path, commit: str, sizes: dict[str, int]) -> None:
    """Record a finished download, atomically; the files lie in the folder `commit` beside the marker."""
    temporary = marker.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps({"commit": commit, "files": sizes}), encoding="utf-8")
    temporary.replace(marker)


def is_intact(path: Path, file: RepoSibling) -> bool:
    """Compare with the hub's listing: size, and SHA-256 for large files or Git's SHA-1 for small ones."""
    size_bytes = path.stat().st_size
    if file.size is not None and size_bytes != file.size:
        return False
    sha256 = getattr(file.lfs, "sha256", None)
    wanted = sha256 or file.blob_id
    if wanted is None:
        return True
    digest = (
        hashlib.sha256() if sha256 else hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    )
    with path.open("rb") as data:
        while chunk := data.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == wanted
