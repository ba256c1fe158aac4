"""Where the networks for speakers come from: files of the operator, or of the hub.

The default ones are pinned: a commit, and the SHA-256 of the file, which is checked before each load.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.types import ModelSource
from whisper_server.services.model_files.hub.fetch import download_repository

if TYPE_CHECKING:
    from whisper_server.core.config import Settings

NONE = "none"


@dataclass(frozen=True, slots=True)
class Pin:
    """One published file, to the byte."""

    revision: str
    sha256: str


# Segmentation: MIT. Voice encoder: CC-BY-4.0.
PINS = {
    "csukuangfj/sherpa-onnx-pyannote-segmentation-3-0:model.onnx": Pin(
        "9403a6902bb58e3d5ae8c7e77c3422de279db2e0",
        "220ad67ca923bef2fa91f2390c786097bf305bceb5e261d4af67b38e938e1079",
    ),
    "Wespeaker/wespeaker-voxceleb-resnet34-LM:voxceleb_resnet34_LM.onnx": Pin(
        "f0c48c298fd835726c27956a5d617bad7115627e",
        "7bb2f06e9df17cdf1ef14ee8a15ab08ed28e8d0ef5054ee135741560df2ec068",
    ),
}


def network_file(name: str, settings: Settings) -> Path:
    """Return the file that a setting names, downloading it where the cache lacks it; blocks.

    Raises:
        ModelUnavailable: there is no such file, it cannot be downloaded, or it is not the one that is pinned.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    place, separator, file = name.rpartition(":")
    if not separator or place.count("/") != 1:
        raise ModelUnavailable(f"There is no file {path.name!r}.")
    repo, _, revision = place.partition("@")
    pin = PINS.get(name)
    source = ModelSource(repo, repo=repo, revision=pin.revision if pin else revision or None)
    folder = download_repository(source, settings.cache_dir, offline=settings.offline, file=file)
    found = folder / file
    if pin is not None and hashlib.sha256(found.read_bytes()).hexdigest() != pin.sha256:
        raise ModelUnavailable(f"{file} of {repo} is not the file that was published: its SHA-256 differs.")
    return found
