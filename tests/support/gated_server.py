"""A server whose device a test holds: `python -m tests.support.gated_server FLAGS`, fake engine.

Writes a line to stdout for each batch that comes to the device. Each byte on stdin lets one batch through,
the end of stdin all that follow. With FRUGAL in the environment its allocator keeps little.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from tests.support.frugal_server import keep_little
from whisper_server.api.server.run import run
from whisper_server.services.engines import fake

if TYPE_CHECKING:  # the server itself imports nothing of the tests
    from tests.conftest import Server

LIMIT_S = 60.0  # no test waits for it; it only ends a hang


class Gate(threading.Event):
    """Lets batches through one by one."""

    def __init__(self) -> None:
        super().__init__()
        self._passes = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        os.write(1, b"batch\n")
        return self.is_set() or self._passes.acquire(timeout=timeout)

    def obey(self) -> None:
        while os.read(0, 1):
            self._passes.release()
        self.set()
        self._passes.release()


def wait_for_batch(server: Server) -> None:
    """Wait until one more batch has come to the device."""
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "batch\n"


def let_through(server: Server, batches: int) -> None:
    """Let so many batches through."""
    assert server.process.stdin is not None
    server.process.stdin.write("." * batches)
    server.process.stdin.flush()


def open_gate(server: Server) -> None:
    """Let all batches through from now on."""
    assert server.process.stdin is not None
    server.process.stdin.close()


if __name__ == "__main__":
    if "FRUGAL" in os.environ:
        keep_little()
    fake.GATE = gate = Gate()
    threading.Thread(target=gate.obey, daemon=True).start()
    run()
