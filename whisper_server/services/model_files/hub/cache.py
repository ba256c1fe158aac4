"""The part of the cache that holds what the hub's repositories have: the records of finished downloads.

Only what a record names is ever used as a model: files that no record names belong to a download that ended
early, and the next attempt goes on from them.

    <cache>/hub/<owner>--<name>/<revision>.json    the record (the marker): commit, and the size of every file
    <cache>/hub/<owner>--<name>/<commit>/          the files
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from whisper_server.core.system.durable import sync_file

if TYPE_CHECKING:
    from whisper_server.core.types import ModelSource

DEFAULT_REVISION = "main"
COMMIT = re.compile(r"[0-9a-f]{7,64}")  # its hash, whole or shortened; the name of its folder


def marker_of(source: ModelSource, cache_dir: Path, file: str | None = None) -> Path:
    """Return where a finished download of `source`, or of one file of it, is recorded."""
    assert source.repo is not None
    home = cache_dir / "hub" / source.repo.replace("/", "--")
    wanted = source.revision or DEFAULT_REVISION
    return home / f"{quote(wanted if file is None else f'{wanted}:{file}', safe='')}.json"


def record(marker: Path, commit: str, sizes: dict[str, int]) -> None:
    """Record a finished download, atomically; the files lie in the folder `commit` beside the marker."""
    temporary = marker.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps({"commit": commit, "files": sizes}), encoding="utf-8")
    sync_file(temporary)
    temporary.replace(marker)


def recorded(marker: Path) -> Path | None:
    """Return the folder of a finished download, if its files are still there."""
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        folder: Path = marker.parent / record["commit"]
        is_whole = all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if is_whole else None


def loose_folders(home: Path) -> tuple[Path, ...]:
    """Return the folders of a repository that no record names: downloads that ended early."""
    named = {_commit_of(marker) for marker in home.glob("*.json")}
    folders = (path for path in home.glob("*") if COMMIT.fullmatch(path.name) and path.is_dir())
    return tuple(path for path in folders if path.name not in named)


def _commit_of(marker: Path) -> str | None:
    """Return the commit that a marker names, which is the name of its folder; None where it is damaged."""
    try:
        commit = json.loads(marker.read_text(encoding="utf-8"))["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None
