"""What of the catalog lies on this machine, how much room it takes, and how it is deleted; opens no socket.

Only what the server downloaded or converted itself is deleted, never a folder of the operator's.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from whisper_server.core.errors import Unavailable
from whisper_server.services.engines.registry import conversions_of, weight_bytes
from whisper_server.services.model_files.hub.cache import loose_folders, marker_of, recorded
from whisper_server.services.model_files.hub.files import CTRANSLATE2_FILE
from whisper_server.services.model_files.hub.lock import DownloadInProgress, removal_lock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whisper_server.core.types import ModelSource
    from whisper_server.services.model_files.catalog import Catalog

log = logging.getLogger(__name__)

State = Literal["folder", "downloaded", "partial", "absent"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One model of the catalog, as it lies on the disk."""

    name: str  # canonical
    aliases: tuple[str, ...]  # its other names
    origin: str  # the operator's folder, or "owner/name" or "owner/name@revision"
    state: State  # folder: the operator's own; partial: a download that ended early
    folder: Path | None  # with its files, where they are whole
    conversions: tuple[Path, ...]  # made from that folder
    size_bytes: int  # of files, parts and conversions; the operator's own files do not count


def holdings(catalog: Catalog, cache_dir: Path) -> list[Holding]:
    """Return every model of the catalog once, in its order, hosted names with the default; reads the disk."""
    names: dict[ModelSource, list[str]] = {}
    for name, source in (*catalog.names(), *catalog.aliases()):
        names.setdefault(source, []).append(name)
    return [holding_of(source, cache_dir, of) for source, of in names.items()]


def holding_of(source: ModelSource, cache_dir: Path, names: Iterable[str] = ()) -> Holding:
    """Return what there is of one model."""
    aliases = tuple(name for name in names if name != source.name)
    if source.folder is not None:
        made = conversions_of(source.folder, cache_dir)
        size_bytes = _size_of(made)
        return Holding(source.name, aliases, str(source.folder), "folder", source.folder, made, size_bytes)
    origin = f"{source.repo}@{source.revision}" if source.revision else str(source.repo)
    marker = marker_of(source, cache_dir)
    folder = recorded(marker)
    if folder is None:
        parts = loose_folders(marker.parent)
        state: State = "partial" if parts else "absent"
        return Holding(source.name, aliases, origin, state, None, (), _size_of(parts))
    made = conversions_of(folder, cache_dir)
    return Holding(source.name, aliases, origin, "downloaded", folder, made, _size_of((folder, *made)))


def least_bytes(one: Holding) -> int:
    """Return what the weights take in memory at least, by what lies on the disk; 0 where nothing does.

    Converted weights take their size; others may become a quarter, float32 as int8.
    """
    if one.folder is None:
        return 0
    if one.conversions:
        return min(weight_bytes(folder) for folder in one.conversions)
    if (one.folder / CTRANSLATE2_FILE).is_file():
        return weight_bytes(one.folder)
    return sum(path.stat().st_size for path in one.folder.glob("*.safetensors")) // 4


def remove_download(source: ModelSource, cache_dir: Path) -> bool:
    """Delete what was downloaded for `source` and converted from it; return whether there was any; blocks.

    A revision that shares the files with another one leaves them to it. Downloads of the same repository
    that ended early go too.

    Raises:
        Unavailable: it is being downloaded now, or the files cannot be deleted.
    """
    marker = marker_of(source, cache_dir)
    if not marker.is_file() and not loose_folders(marker.parent):
        return False
    try:
        with removal_lock(marker.parent):
            _remove(marker, cache_dir)
    except DownloadInProgress as error:
        raise Unavailable(f"The model {source.name!r} is being downloaded; delete it later.") from error
    except OSError as error:
        raise Unavailable(
            f"The files of the model {source.name!r} cannot be deleted: {error.strerror or error}."
        ) from error
    return True


def _remove(marker: Path, cache_dir: Path) -> None:
    """Delete the record first: whatever fails then, nothing is taken for whole."""
    marker.unlink(missing_ok=True)
    for folder in loose_folders(marker.parent):  # and what an attempt that ended early has left
        # Converted models are named after the folder that they were made from: here a commit.
        for path in (folder, *(cache_dir / "converted").glob(f"{folder.name[:40]}-*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:  # the record that it was tried
                path.unlink(missing_ok=True)
        log.info("deleted the download %s, %s", marker.parent.name, folder.name)


def _size_of(folders: Iterable[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
