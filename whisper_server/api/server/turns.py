"""Turns at the event loop for bodies that come in chunks, so that other connections do not wait for them.

Of a request in chunks, six bytes of the network may be one byte of the body, and the parser needs
microseconds for each chunk: a thousand times what the same bytes cost in one piece. So such bodies of all
connections together get `TURN_S` of each round of the event loop, a slice of one after a slice of another;
what has not had its turn is kept, and its connection is not read from meanwhile. Request headers, other
bodies and everything else have no such queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

TURN_S = 0.004  # of a round of the event loop; /health takes some six rounds
SLICE_BYTES = 1024  # some 170 of the smallest chunks: a millisecond


class Waiting(Protocol):
    """A connection that has bytes to be parsed."""

    def take_turn(self, n_bytes: int) -> bool:
        """Parse so many bytes; return whether there are more."""
        ...


class Turns:
    """A queue of connections, and who is next; for one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._is_scheduled = False

    def add(self, connection: Waiting, loop: asyncio.AbstractEventLoop) -> None:
        """Give a connection its turns from the next round on; once, until it has no more bytes."""
        self._waiting.append(connection)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        deadline = time.perf_counter() + TURN_S
        try:
            while self._waiting and time.perf_counter() < deadline:
                connection = self._waiting.popleft()
                if connection.take_turn(SLICE_BYTES):
                    self._waiting.append(connection)
        finally:  # whatever one connection raised, the others have their turns
            self._schedule(loop)
