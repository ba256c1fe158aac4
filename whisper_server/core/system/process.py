"""What every entry point needs of its process: streams, enough open files, and an exit that never hangs."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import NoReturn

# All threads that this package starts have this prefix; they may be inside native code.
THREAD_PREFIX = "whisper-"
INTERRUPTED = 130  # the exit code after Ctrl-C, as a shell has it


class ThreadStarter:
    """Starts threads from a thread of its own, so that no caller waits: an event loop may be one.

    `Thread.start` waits until the new thread has begun. Where no memory is left that one may end before it
    says so, and CPython waits for ever.
    """

    def __init__(self, timeout_s: float = 5.0) -> None:
        """Take how long a start may last before further ones are refused."""
        self._timeout_s = timeout_s
        self._wanted: SimpleQueue[tuple[threading.Thread, Callable[[Exception | None], None]]] = SimpleQueue()
        self._since_s: float | None = None  # on the monotonic clock: when the start that lasts was begun
        # Not one of those that `leave` has to wait for: it is never inside native code.
        threading.Thread(target=self._run, name="thread-starter", daemon=True).start()

    def start(self, thread: threading.Thread, failed: Callable[[Exception], None]) -> None:
        """Start a thread soon; `failed` is told, on the starter's thread, why it cannot."""
        self._wanted.put((thread, lambda error: failed(error) if error else None))

    def begin(self, thread: threading.Thread) -> None:
        """Start a thread and wait until it has begun, but not for ever.

        Raises:
            RuntimeError: it cannot be started, or has not begun in time.
        """
        self.check()
        ended: SimpleQueue[Exception | None] = SimpleQueue()
        self._wanted.put((thread, ended.put))
        try:
            error = ended.get(timeout=self._timeout_s)
        except Empty:
            raise RuntimeError("no thread can be started") from None
        if error is not None:
            raise RuntimeError("no thread can be started") from error

    def check(self) -> None:
        """Check that threads are started; raises `RuntimeError` where an earlier start does not end."""
        since_s = self._since_s
        if since_s is not None and time.monotonic() - since_s > self._timeout_s:
            raise RuntimeError("no thread can be started")

    def _run(self) -> None:
        while True:
            self._start(*self._wanted.get())

    def _start(self, thread: threading.Thread, ended: Callable[[Exception | None], None]) -> None:
        failure: Exception | None = None
        self._since_s = time.monotonic()
        try:
            thread.start()
        except Exception as error:  # noqa: BLE001  (RuntimeError, MemoryError)
            failure = error
        finally:
            self._since_s = None
        ended(failure)


_starter = cache(ThreadStarter)


def check_threads() -> None:
    """Check that threads are started, and prepare for it at first; raises as `ThreadStarter.check`."""
    _starter().check()


def begin_thread(thread: threading.Thread) -> None:
    """Start a thread of any name and wait until it has begun; raises as `ThreadStarter.begin`."""
    _starter().begin(thread)


def start_thread(
    target: Callable[..., None], *args: object, failed: Callable[[Exception], None] = lambda _: None
) -> None:
    """Run `target` on a daemon thread that `leave` knows by its name; `failed`: see `ThreadStarter.start`."""
    name = f"{THREAD_PREFIX}{target.__name__.strip('_')}"
    _starter().start(threading.Thread(target=target, args=args, name=name, daemon=True), failed)


def end_at_interrupt() -> None:
    """Let Ctrl-C end the process at once: while it imports, there is nothing to tidy up."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def hear_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as it does in the beginning."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ensure_streams() -> None:
    """Put something in place of the standard streams that a process without a console lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (for good)


def allow_open_files(n: int) -> int:
    """Let the process have this many files and sockets open, or fewer; return how many."""
    if sys.platform == "win32":
        return n  # no such limit
    import resource  # noqa: PLC0415  (not on Windows)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n if hard == resource.RLIM_INFINITY else min(n, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return n if soft == resource.RLIM_INFINITY else min(n, soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS has another limit, which it does not report
        return soft
    return wanted


def end_on_signals() -> None:
    """End the process cleanly at a signal that comes before the server listens to signals itself."""

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)  # nothing has begun

    for number in end_signals():
        signal.signal(number, end)


def end_signals() -> list[signal.Signals]:
    """Return the signals that ask a process to end; not those that who started it told it to ignore."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        # TerminateProcess, which is `terminate()` there, cannot be caught. For an end in order, start the
        # server with CREATE_NEW_PROCESS_GROUP and send it CTRL_BREAK_EVENT, as uvicorn has it.
        numbers.append(signal.SIGBREAK)
    else:
        numbers.append(signal.SIGHUP)  # its terminal is closed; `nohup` ignores it
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def is_stopped(pid: int) -> bool:
    """Tell whether a signal has stopped a process; False where the system does not tell."""
    fields = _stat(pid)
    return bool(fields) and fields[0] in {b"T", b"t"}


def processor_time_s(pid: int) -> float | None:
    """Return how much of a processor another process has used; None where the system does not tell."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def _stat(pid: int) -> list[bytes]:
    """Return what Linux says of a process, from its state on (proc_pid_stat(5)); nothing on other systems."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return stat.rpartition(b")")[2].split()


def leave(code: int) -> NoReturn:
    """End the process with this exit code.

    A call into a native library cannot be interrupted, and the interpreter aborts if it is torn down during
    one: so where a thread of this package still runs, the process exits without the teardown. Ctrl-C changes
    nothing any more: the teardown would end by it, or say where it was.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader may have ended
            stream.flush()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(code)
    sys.exit(code)
