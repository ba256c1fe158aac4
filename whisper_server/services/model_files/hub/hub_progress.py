"""How far a download is: told to whoever asked, and logged every tenth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

log = logging.getLogger(__package__)  # one voice for all that a download says

OnProgress: TypeAlias = Callable[[int, int], None]  # bytes done, bytes in all; ends the download by raising


class Progress:
    """Counts bytes over all files of a download."""

    def __init__(self, name: str, total_bytes: int, on_progress: OnProgress | None) -> None:
        self._name = name
        self._total_bytes = max(1, total_bytes)
        self._on_progress = on_progress
        self._finished_bytes = 0  # of whole files
        self._tenths = 0

    def finish(self, size_bytes: int) -> None:
        """Count a whole file."""
        self._finished_bytes += size_bytes
        self.arrived(0)

    def arrived(self, current_bytes: int) -> None:
        """Take how many bytes of the file on its way are there."""
        done_bytes = min(self._finished_bytes + current_bytes, self._total_bytes)
        tenths = done_bytes * 10 // self._total_bytes
        if tenths > self._tenths:
            self._tenths = tenths
            log.info("downloading %s: %d %%", self._name, tenths * 10)
        if self._on_progress is not None:
            self._on_progress(done_bytes, self._total_bytes)
