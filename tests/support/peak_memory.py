"""How much memory was in use at most, where the system can be asked to start the measurement again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


@contextmanager
def bounded_growth(limit_mb: float) -> Iterator[None]:
    """Check that the block's peak is at most so much above what is in use before it; Linux only."""
    try:
        CLEAR.write_text("5")  # forget the peak so far
    except OSError:
        yield
        return
    before_mb = _mb("VmRSS")
    yield
    growth_mb = _mb("VmHWM") - before_mb
    assert growth_mb <= limit_mb, f"{growth_mb:.0f} MB more"


class ChildrensPeak:
    """What each child process of this one had in memory at most, in the block; Linux only.

    The system's own account of children that have ended (`getrusage`) counts what the parent had when it
    started them, and all children ever.
    """

    def __init__(self) -> None:
        self.mb: dict[int, float] = {}  # by process number
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ChildrensPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._is_over.wait(0.02):
            for child in this.children():
                # One that has just been forked has the memory of this process, and its name.
                with suppress(OSError, ValueError, psutil.Error):
                    if "decoder_process" in " ".join(child.cmdline()):
                        self.mb[child.pid] = _mb("VmHWM", Path(f"/proc/{child.pid}/status"))


def _mb(name: str, status: Path = STATUS) -> float:
    return int(status.read_text().partition(f"{name}:")[2].split()[0]) * 1024 / 1e6
