"""How much more memory this process may take: of the machine's, of its control groups', of its own limits.

Linux alone tells all of these; elsewhere nothing is known. Reads files of /proc and /sys/fs/cgroup, some
ten microseconds each (proc(5), cgroups(7), the kernel's cgroup-v2.rst and cgroup-v1/memory.rst).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_KIB = 1 << 10
# What C++ libraries write into errors that reach Python as something else than a MemoryError.
_SAYINGS = ("out of memory", "bad_alloc", "failed to allocate", "can't allocate", "cannot allocate memory")
# Files of a control group, version 2 and 1, and names in its memory.stat.
_NAMES = ("memory.max", "memory.current", "inactive_file ", "active_file ", "file_mapped ")
_OLD_NAMES = (
    *("memory.limit_in_bytes", "memory.usage_in_bytes"),
    *("total_inactive_file ", "total_active_file ", "total_mapped_file "),
)


def is_want_of_memory(error: BaseException) -> bool:
    """Tell whether an error, of Python or of a native library, says that there was no memory."""
    return isinstance(error, MemoryError) or any(saying in str(error).lower() for saying in _SAYINGS)


def check_room(n_bytes: int) -> None:
    """Check that so much memory can be had now, before a library begins that ends the process without it.

    Raises:
        MemoryError: it cannot.
    """
    bytes(n_bytes)  # never touched, and mapped by itself where it is large: given and handed back at once


@dataclass(frozen=True, slots=True)
class _Group:
    """The files of a control group that tell its memory, and what its pages of files are called in one."""

    limit: Path
    usage: Path
    stat: Path
    inactive: str
    active: str
    mapped: str

    def free_bytes(self) -> int | None:
        """Return what its processes may take; None where it has no limit.

        Pages of files go where others are wanted: those that were read once, and those that were read again,
        as weights are that are checked and then loaded. What is mapped are libraries, which are in use.
        """
        limit = self.limit.read_text()
        if limit.startswith("max"):
            return None
        stat = self.stat.read_text()
        active_bytes = _number_after(stat, self.active) - _number_after(stat, self.mapped)
        files_bytes = _number_after(stat, self.inactive) + max(0, active_bytes)
        return int(limit) - int(self.usage.read_text()) + files_bytes


class FreeMemory:
    """A callable: the bytes that may still be taken, None where the system does not tell."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Find this process's control groups; `root` is where proc/ and sys/ are."""
        self._proc = root / "proc"
        self._groups: tuple[_Group, ...] = ()
        if sys.platform.startswith("linux"):
            with suppress(OSError, ValueError):
                self._groups = tuple(_groups_of(self._proc, root / "sys" / "fs" / "cgroup"))

    def __call__(self) -> int | None:
        """Return the least that any limit leaves."""
        if not sys.platform.startswith("linux"):
            return None
        left = [*self._left_by_limits()]
        with suppress(OSError, ValueError):
            text = (self._proc / "meminfo").read_text()
            left.append((_number_after(text, "MemAvailable:") + _number_after(text, "SwapFree:")) * _KIB)
        for group in self._groups:
            with suppress(OSError, ValueError):  # groups may go, or have no such file
                free = group.free_bytes()
                if free is not None:
                    left.append(free)
        return min(left, default=None)

    def _left_by_limits(self) -> Iterator[int]:
        """Yield what RLIMIT_AS and RLIMIT_DATA leave, where they are set."""
        import resource  # noqa: PLC0415  (not on Windows)

        for limit, field in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
            soft = resource.getrlimit(limit)[0]
            if soft != resource.RLIM_INFINITY:
                with suppress(OSError, ValueError):
                    used = _number_after((self._proc / "self" / "status").read_text(), field)
                    yield soft - used * _KIB


def _groups_of(proc: Path, mount: Path) -> Iterator[_Group]:
    """Yield the groups that bound this process's memory: its own and those around it, of either version."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            home, names = mount, _NAMES
        elif "memory" in controllers.split(","):
            home = mount / "memory"
            names = _OLD_NAMES
        else:
            continue
        # In a container the path may be the host's, which is not to be seen here; its own is the mount then.
        own = home / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(home) and (folder / names[0]).is_file():
                yield _Group(folder / names[0], folder / names[1], folder / "memory.stat", *names[2:])


def _number_after(text: str, name: str) -> int:
    """Return the number that follows a name at the start of a line.

    Raises:
        ValueError: there is no such line.
    """
    start = 0 if text.startswith(name) else text.index("\n" + name) + 1
    return int(text[start + len(name) :].split(maxsplit=1)[0])
