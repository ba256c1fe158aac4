"""A server whose device a test holds: `python -m tests.support.gated_server FLAGS`, fake engine.

Writes a line to stdout for each batch that comes to the device. Each byte on stdin lets one batch through,
the end of stdin all that follow.
"""

from __future__ import annotations

import os
import threading

from whisper_server.api.server.run import run
from whisper_server.services.engines import fake


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


if __name__ == "__main__":
    fake.GATE = gate = Gate()
    threading.Thread(target=gate.obey, daemon=True).start()
    run()
