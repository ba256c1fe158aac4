"""Waiting for what another process does; the limits only end a hang, on however busy a machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tests.conftest import Server

HANG_S = 180.0  # no test waits for it
_LOOK_S = 0.02


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look now and then until the condition holds; leaves the processor to those who are waited for."""
    hung_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < hung_s, f"in {HANG_S:g} s there was no {what}"
        time.sleep(_LOOK_S)


def wait_until_started(server: Server) -> None:
    """Wait until the application is there: until then, /health and /ready are answered without it."""
    assert httpx.get(f"{server.url}/v1/models", timeout=HANG_S).status_code == 200


class Probe:
    """Asks a real server as an orchestrator does: on a connection of its own each time, and cheaply."""

    def __init__(self, server: Server) -> None:
        self._url = server.url
        # One client: making one reads the system's certificates, which takes longer than the server's answer.
        self._client = httpx.Client(timeout=HANG_S, limits=httpx.Limits(max_keepalive_connections=0))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def status(self, path: str = "/health") -> int:
        """Return the status of one probe."""
        return self._client.get(f"{self._url}{path}").status_code
