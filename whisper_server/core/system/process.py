"""What every entry point needs of its process: streams, enough open files, and an exit that never hangs."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# All threads that this package starts have this prefix; they may be inside native code.
THREAD_PREFIX = "whisper-"
INTERRUPTED = 130  # the exit code after Ctrl-C, as a shell has it


def start_thread(target: Callable[..., None], *args: object) -> None:
    """Run `target` on a daemon thread that `leave` knows by its name."""
    name = f"{THREAD_PREFIX}{target.__name__.strip('_')}"
    threading.Thread(target=target, args=args, name=name, daemon=True).start()


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


def allow_open_files(n: int) -> None:
    """Let the process have this many files and sockets open, as far as the system allows it."""
    if sys.platform == "win32":
        return  # no such limit
    import resource  # noqa: PLC0415  (not on Windows)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n if hard == resource.RLIM_INFINITY else min(n, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS has another limit, which it does not report
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def leave(code: int) -> NoReturn:
    """End the process with this exit code.

    A call into a native library cannot be interrupted, and the interpreter aborts if it is torn down during
    one: so where a thread of this package still runs, the process exits without the teardown.
    """
    if any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # its reader may have ended
                stream.flush()
        logging.shutdown()
        os._exit(code)
    sys.exit(code)
