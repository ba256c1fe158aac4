"""Tells when another process ends; for a server that is to end with the app that started it.

Each system has one way that costs nothing while the process lives. Linux: a pidfd in the event loop. macOS:
a kqueue in the event loop. Windows: a thread that waits for a handle of the process. The fallback is a poll
once a second, for Linux without pidfds: kernels before 5.3 (Debian 10 has 4.19), sandboxes that do not know
the call, and Pythons built on older headers. The signal that Linux can send when a parent dies
(PR_SET_PDEATHSIG) is of no use: it comes when the *thread* that started the server ends, and desktop apps
start processes from pools of threads.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from whisper_server.core.system.process import THREAD_PREFIX

POLL_EVERY_S = 1.0


class Watch(Protocol):
    """Watches one process, which it does not mistake for a later one of the same number."""

    def start(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` once, on the running event loop, when the process has ended."""
        ...

    def stop(self) -> None:
        """End the watch; needs the event loop's thread."""
        ...


def open_watch(pid: int) -> Watch:
    """Return a watch of the process.

    Raises:
        ProcessLookupError: there is no such process.
        OSError: the system does not allow it.
    """
    if pid <= 0:  # what `getppid` says of the first process of a container
        raise ProcessLookupError
    if sys.platform == "win32":
        return _HandleWatch(pid)
    elif sys.platform == "linux":  # noqa: RET505  (mypy tells platforms apart by this form only)
        try:
            return _DescriptorWatch(os.pidfd_open(pid), os.close)
        except ProcessLookupError:
            raise
        except (AttributeError, OSError):  # see the module
            return PollingWatch(pid)
    else:
        return _kqueue_watch(pid)


def open_parent_watch(pid: int) -> Watch:
    """Return a watch of our parent, which was `pid` when this process began. Raises as `open_watch`."""
    watch = open_watch(pid)
    # Where the parent has ended since, the number may be another process's. Windows keeps saying `pid`.
    if os.getppid() != pid:
        watch.stop()
        raise ProcessLookupError
    return watch


def is_one_file() -> bool:
    """Return whether this is a one-file executable, whose parent is its own unpacker."""
    return Path(getattr(sys, "_MEIPASS", "")).name.startswith("_MEI")


class _DescriptorWatch:
    """A file descriptor that can be read once the process has ended."""

    def __init__(self, descriptor: int, close: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._close = close
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._end, on_end)

    def stop(self) -> None:
        self._remove_reader()
        self._close(self._descriptor)

    def _end(self, on_end: Callable[[], None]) -> None:
        self._remove_reader()  # it stays readable
        on_end()

    def _remove_reader(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None


class PollingWatch:
    """Looks from time to time whether the process is there."""

    def __init__(self, pid: int, every_s: float = POLL_EVERY_S) -> None:
        """Take a process that is there.

        Raises:
            ProcessLookupError: it is not.
        """
        self._pid = pid
        self._every_s = every_s
        self._is_parent = os.getppid() == pid
        self._timer: asyncio.TimerHandle | None = None
        if not self._is_there():
            raise ProcessLookupError

    def start(self, on_end: Callable[[], None]) -> None:
        """Look now, and again until it has ended."""
        if self._is_there():
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self.start, on_end)
        else:
            self._timer = None
            on_end()

    def stop(self) -> None:
        """Cancel the next look."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_there(self) -> bool:
        if self._is_parent:  # a zombie still has its number, but no children
            return os.getppid() == self._pid
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _SYNCHRONIZE = 0x00100000
    _INFINITE = 0xFFFFFFFF
    _NO_SUCH_PROCESS = 87  # ERROR_INVALID_PARAMETER

    class _HandleWatch:
        """A thread that waits for the process: asyncio has no public way to wait for a handle."""

        def __init__(self, pid: int) -> None:
            self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            self._kernel.OpenProcess.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)
            self._kernel.OpenProcess.restype = wintypes.HANDLE
            self._kernel.WaitForSingleObject.argtypes = (wintypes.HANDLE, wintypes.DWORD)
            self._handle = self._kernel.OpenProcess(_SYNCHRONIZE, False, pid)
            if not self._handle:
                code = ctypes.get_last_error()
                raise ProcessLookupError if code == _NO_SUCH_PROCESS else ctypes.WinError(code)

        def start(self, on_end: Callable[[], None]) -> None:
            loop = asyncio.get_running_loop()

            def wait() -> None:
                self._kernel.WaitForSingleObject(self._handle, _INFINITE)
                with suppress(RuntimeError):  # the loop is closed: this process has ended before
                    loop.call_soon_threadsafe(on_end)

            threading.Thread(target=wait, name=f"{THREAD_PREFIX}parent", daemon=True).start()

        def stop(self) -> None:
            """Leave thread and handle to the end of this process: a wait cannot be cancelled."""

elif sys.platform != "linux":
    import select

    def _kqueue_watch(pid: int) -> Watch:
        queue = select.kqueue()
        flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
        event = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)
        try:
            queue.control([event], 0)
        except OSError:  # ProcessLookupError where it has ended
            queue.close()
            raise
        return _DescriptorWatch(queue.fileno(), lambda _: queue.close())
