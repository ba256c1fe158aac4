"""How many calls into a library run on the cores now."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class ActiveCalls:
    """Counts the calls of one engine; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[bool]:
        """Count a call while it runs; yield whether it began as the only one."""
        with self._lock:
            is_alone = self._n == 0
            self._n += 1
        try:
            yield is_alone
        finally:
            with self._lock:
                self._n -= 1
