"""One process at a time downloads a repository; the others wait for it as long as it gets further.

Who downloads leaves a trace on the disk: a part that grows, a file that gets its name. Where nothing of that
happens for long, the other process hangs, is stopped, or lives on a machine that is gone (the lock may lie on
a network drive), and whoever waits is told, and not held for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__package__)  # one voice for all that a download says

LOCK_PATIENCE_S = 0.1  # then somebody else is downloading, and that is said
LOOK_S = 1.0  # from one look at what the other one has brought to the next
# A hub that hangs is given up after seconds; but checking a large file on a slow disk takes minutes.
HANGS_S = 300.0


class OtherHangs(Exception):
    """Another process holds the lock and gets no further."""


@contextmanager
def alone(home: Path, repo: str, *, hangs_s: float = HANGS_S) -> Iterator[None]:
    """Have the block to one process at a time; the others wait, and then find everything there.

    Raises:
        OtherHangs: the one that has the lock has brought nothing for `hangs_s`.
        OSError: the lock cannot be written.
    """
    from filelock import Timeout  # noqa: PLC0415  (huggingface_hub's own)
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # noqa: PLC0415

    path = home / ".lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=LOCK_PATIENCE_S))
        except Timeout:
            log.info("%s is being downloaded by somebody else; waiting for that", repo)
            for _ in _while_it_gets_further(home, hangs_s):
                try:
                    stack.enter_context(WeakFileLock(path, timeout=LOOK_S))
                except Timeout:
                    continue
                break
        yield


def _while_it_gets_further(home: Path, hangs_s: float) -> Iterator[None]:
    """Yield for one more attempt; raises `OtherHangs` where too long ago the last thing happened."""
    seen, since = trace_of(home), time.monotonic()
    while True:
        yield
        there = trace_of(home)
        now = time.monotonic()
        if there != seen:
            seen, since = there, now
        elif now - since >= hangs_s:
            raise OtherHangs(
                f"another process has been downloading it, and has got no further for {now - since:.0f} s;"
                " try again later, or end that process"
            )


def trace_of(home: Path) -> dict[str, int]:
    """Return the size of every file below `home`, which changes while somebody downloads."""
    sizes = {}
    for path in home.rglob("*"):
        with suppress(OSError):  # it got its name, or was thrown away, at this moment
            sizes[str(path)] = path.stat().st_size
    return sizes
