"""Takes a downloaded model out of the cache: its files, its record, and what was converted from it.

Only ever what the server downloaded itself; a folder of the operator's is not its to delete.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_server.core.errors import Unavailable
from whisper_server.services.model_files.hub.fetch import marker_of
from whisper_server.services.model_files.hub.files import loose_folders

if TYPE_CHECKING:
    from whisper_server.core.types import ModelSource

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 1.0  # a download that holds the lock may take hours


def remove_download(source: ModelSource, cache_dir: Path) -> bool:
    """Delete what was downloaded for `source`; return whether there was anything; blocks.

    A revision that shares the files with another one leaves them to it. Downloads of the same repository
    that ended early go too.

    Raises:
        Unavailable: it is being downloaded now, or the files cannot be deleted.
    """
    marker = marker_of(source, cache_dir)
    if not marker.is_file() and not loose_folders(marker.parent):
        return False
    from filelock import Timeout  # noqa: PLC0415  (huggingface_hub's own; only when a model is deleted)
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        with WeakFileLock(marker.parent / ".lock", timeout=LOCK_TIMEOUT_S):
            return _remove(marker, cache_dir)
    except Timeout as error:
        raise Unavailable(f"The model {source.name!r} is being downloaded; delete it later.") from error
    except OSError as error:
        raise Unavailable(
            f"The files of the model {source.name!r} cannot be deleted: {error.strerror or error}."
        ) from error


def _remove(marker: Path, cache_dir: Path) -> bool:
    """Delete the record first: whatever fails then, nothing is taken for whole."""
    marker.unlink(missing_ok=True)
    for folder in loose_folders(marker.parent):  # and what an attempt that ended early has left
        # Converted models are named after the folder that they were made from: here a commit.
        for path in (folder, *(cache_dir / "converted").glob(f"{folder.name[:40]}-*")):
            if path.is_dir():
                shutil.rmtree(path)
        log.info("deleted the download %s, %s", marker.parent.name, folder.name)
    return True
