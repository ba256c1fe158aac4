"""The lock of a repository in the cache: one process at a time downloads into its folder or deletes from it.

A download leaves a trace on the disk: a part that grows, a file that gets its name. Where the trace stays the
same for long, the process that holds the lock hangs, is stopped, or runs on a machine that is down (the lock
may lie on a network drive), and those that wait get an error instead of waiting for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__package__)  # one voice for all that a download says

LOCK_TIMEOUT_S = 0.1  # a lock that is not free by then is held by another download, and that is logged
POLL_S = 1.0  # from one look at the trace of the other download to the next
# A hub that hangs is given up after seconds; but checking a large file on a slow disk takes minutes.
HANGS_S = 300.0
REMOVAL_TIMEOUT_S = 1.0  # a download that holds the lock may take hours


class DownloadInProgress(Exception):
    """Another thread or process downloads the repository."""


class DownloadHangs(Exception):
    """The download that holds the lock gets no further."""


@contextmanager
def download_lock(home: Path, repo: str, *, hangs_s: float = HANGS_S) -> Iterator[None]:
    """Hold the lock of the repository's folder `home`; wait for another download as long as it gets further.

    Raises:
        DownloadHangs: the trace of the other download has been the same for `hangs_s`.
        OSError: the lock cannot be written.
    """
    with ExitStack() as stack:
        if not _acquire(stack, home, LOCK_TIMEOUT_S):
            log.info("%s is being downloaded already; waiting for that download", repo)
            for _ in _while_it_gets_further(home, hangs_s):
                if _acquire(stack, home, POLL_S):
                    break
        yield


@contextmanager
def removal_lock(home: Path) -> Iterator[None]:
    """Hold the lock of the repository's folder `home`, without waiting for a download.

    Raises:
        DownloadInProgress: the lock is not free within a second.
        OSError: the lock cannot be written.
    """
    with ExitStack() as stack:
        if not _acquire(stack, home, REMOVAL_TIMEOUT_S):
            raise DownloadInProgress
        yield


def trace_of(home: Path) -> dict[str, int]:
    """Return the size of every file below `home`, which changes while a download goes on."""
    sizes = {}
    for path in home.rglob("*"):
        with suppress(OSError):  # it got its name, or was deleted, at this moment
            sizes[str(path)] = path.stat().st_size
    return sizes


def _acquire(stack: ExitStack, home: Path, timeout_s: float) -> bool:
    """Take the lock until `stack` is closed; return False where it is not free within `timeout_s`."""
    from filelock import Timeout  # noqa: PLC0415  (huggingface_hub's own)
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        stack.enter_context(WeakFileLock(home / ".lock", timeout=timeout_s))
    except Timeout:
        return False
    return True


def _while_it_gets_further(home: Path, hangs_s: float) -> Iterator[None]:
    """Yield for one more attempt; raises `DownloadHangs` where the trace has not changed for `hangs_s`."""
    seen, since = trace_of(home), time.monotonic()
    while True:
        yield
        there = trace_of(home)
        now = time.monotonic()
        if there != seen:
            seen, since = there, now
        elif now - since >= hangs_s:
            raise DownloadHangs(
                f"another process has been downloading it, and has got no further for {now - since:.0f} s;"
                " try again later, or end that process"
            )
