"""The sessions that are open, and the word to end them. For the event loop only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class LiveSessions:
    """Counts sessions; `draining` is set once, when they are to end after the turns that are open."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = asyncio.Event()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count one for as long as it is open."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
