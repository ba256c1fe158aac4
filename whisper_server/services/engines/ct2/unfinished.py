"""Folders of conversions that are being made, and those that killed conversions left behind.

All that convert into one cache share a lock. Who has it alone knows that nothing is being made there: what
looks so was left behind.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_server.core.system.file_lock import lock_alone, shared_lock

log = logging.getLogger(__name__)

_PREFIX = ".tmp-"


@contextmanager
def unfinished_folder(home: Path) -> Iterator[Path]:
    """Make a folder beside the conversions in `home`; what is left of it at the end is removed.

    Raises OSError where the cache cannot be written.
    """
    home.mkdir(parents=True, exist_ok=True)
    with shared_lock(_lock_of(home)):
        folder = home / f"{_PREFIX}{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(home: Path) -> None:
    """Remove what killed conversions left in `home`, unless something is being made there now."""
    try:
        found = list(home.glob(f"{_PREFIX}*"))
        if not found:
            return
        with lock_alone(_lock_of(home)) as is_alone:
            if not is_alone:
                return
            for path in home.glob(f"{_PREFIX}*"):
                shutil.rmtree(path, ignore_errors=True)
                log.info("removed %s, which a conversion that was killed left behind", path.name)
    except OSError as error:  # a cache that is read only
        log.debug("leftovers of conversions stay: %s", error)


def _lock_of(home: Path) -> Path:
    return home.with_name(f".{home.name}.lock")
