"""How much memory was in use at most, where the system can be asked to start the measurement again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def _mb(name: str) -> float:
    return int(STATUS.read_text().partition(f"{name}:")[2].split()[0]) * 1024 / 1e6
