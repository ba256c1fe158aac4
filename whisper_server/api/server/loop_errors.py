"""What the event loop says of errors that belong to no request: one line each, and not too many."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

_SAID_EVERY_S = 10.0
_SYSTEM_ERRORS = (MemoryError, OSError)


class LoopErrors:
    """An exception handler for a loop. A system without files or memory left is a line every ten seconds.

    asyncio itself writes a traceback for each connection that it cannot accept, a thousand times a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_s = float("-inf")
        self._unsaid = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error."""
        error = context.get("exception")
        if not isinstance(error, _SYSTEM_ERRORS):
            loop.default_exception_handler(context)
            return
        now_s = self._clock()
        if now_s - self._said_s < _SAID_EVERY_S:
            self._unsaid += 1
            return
        again = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        log.error("%s: %s%s", context.get("message"), str(error) or type(error).__name__, again)
        self._said_s, self._unsaid = now_s, 0
