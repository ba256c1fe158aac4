"""Files that are whole after a power cut: written to the disk before they get the name that says so."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def sync_file(path: Path) -> None:
    """Wait until what is in a file is on the disk. Raises OSError where it cannot be written there."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can be asked for that."""
    if sys.platform == "win32":
        return  # folders cannot be opened
    with suppress(OSError):  # some file systems do not know it
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
