"""Which servers live: each holds a lock on a file of its own in the folder that they share.

The system gives the lock back however a server ends, so its jobs need not wait until their leases are over.
A server on another machine has no file here; its leases alone count.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from whisper_server.core.system.file_lock import lock_alone, shared_lock

_SUFFIX = ".lock"


class Owners:
    """The name of this server, and the locks of all in a folder. Blocks, for a moment."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, and begin to live; raises OSError where no file can be made there."""
        self._folder = folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        host = re.sub(r"[^A-Za-z0-9.-]", "", platform.node())[:40]
        self.name = f"{host}-{os.urandom(8).hex()}"
        self._held = contextlib.ExitStack()
        self._held.enter_context(shared_lock(self._file(self.name)))

    def dead(self, names: Iterable[str]) -> list[str]:
        """Return those of the owners that have ended for certain."""
        return [name for name in names if name != self.name and self._is_dead(name)]

    def tidy(self, names: Iterable[str]) -> None:
        """Remove the files of servers that have ended and are none of these, which still own something."""
        kept = {*names, self.name}
        for file in self._folder.glob(f"*{_SUFFIX}"):
            name = file.name.removesuffix(_SUFFIX)
            if name not in kept and self._is_dead(name):
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """Live no longer."""
        self._held.close()
        self._file(self.name).unlink(missing_ok=True)

    def _is_dead(self, name: str) -> bool:
        file = self._file(name)
        if not file.exists():
            return False
        with contextlib.suppress(OSError), lock_alone(file) as is_alone:
            return is_alone
        return False

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"
