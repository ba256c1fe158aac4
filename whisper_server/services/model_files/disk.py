"""What of the catalog lies on this machine, and how much room it takes; opens no socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from whisper_server.services.engines.ct2.convert import conversions_of
from whisper_server.services.engines.ct2.working_memory import weight_bytes
from whisper_server.services.model_files.hub.fetch import marker_of
from whisper_server.services.model_files.hub.files import CTRANSLATE2_FILE, loose_folders, recorded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whisper_server.core.types import ModelSource
    from whisper_server.services.model_files.catalog import Catalog


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
    """Return every model of the catalog once, in its order; reads the disk."""
    names: dict[ModelSource, list[str]] = {}
    for name, source in catalog.names():
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


def _size_of(folders: Iterable[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
