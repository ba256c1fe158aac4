"""Which files of a repository a model needs, and whether a downloaded one is what the hub lists."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_server.services.engines.checkpoint import INDEX_FILE, SINGLE_FILE

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

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
