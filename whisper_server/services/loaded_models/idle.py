"""Calls back when something has not been used for a while: one thread at most, and none where nothing waits.

Because the patience is the same for everybody, a deadline that is set later is never earlier: the thread
sleeps until the first one, and nobody has to wake it for another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from whisper_server.core.system.process import start_thread


class IdleWatch:
    """Lets go what has been idle for `patience_s` seconds; negative: never, 0: at once."""

    def __init__(
        self, patience_s: float, changed: threading.Condition, expire: Callable[[float], float | None]
    ) -> None:
        """Take the owner's condition, and `expire`, which is called with its lock held.

        `expire` gets the time up to which idleness counts as long enough (monotonic seconds), lets go what
        has been idle since then or before, and returns since when the next one has been idle, if any.
        """
        self._patience_s = patience_s
        self._changed = changed
        self._expire = expire
        self._is_running = False
        self._is_closed = False

    def is_idle_now(self) -> None:
        """Note that something has become idle; needs the owner's lock, does not block."""
        if self._patience_s < 0 or self._is_closed:
            return
        if self._patience_s == 0:
            self._expire(time.monotonic())
        elif not self._is_running:
            start_thread(self._watch_idle)
            self._is_running = True

    def close(self) -> None:
        """End the thread; needs the owner's lock."""
        self._is_closed = True
        self._changed.notify_all()

    def _watch_idle(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                since = self._expire(now - self._patience_s)
                if since is None:
                    break
                self._changed.wait(max(0.0, since + self._patience_s - now))
            self._is_running = False
