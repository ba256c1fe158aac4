"""The first process of a container: waits for processes that nobody else waits for.

A process whose parent ends becomes a child of process 1, and stays as a zombie until that one waits for it.
If the server did so itself, it would take the exit codes of its own children from those who wait for them. So
where it is process 1, it starts itself as a child: the parent hands signals on and waits, and ends as the
child does. POSIX only.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from whisper_server.core.system.process import end_on_signals

_NOT_PASSED_ON = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP} if sys.platform != "win32" else set()
_BY_SIGNAL = 128  # what shells add to the number of the signal that ended a process


def begin() -> None:
    """Make this process a server: not process 1, ready for signals. Call it before all else."""
    if sys.platform != "win32" and os.getpid() == 1:
        go_on_in_child()
    end_on_signals()


def go_on_in_child() -> None:
    """Return in a child process; here hand signals on, wait for all children and end as it does."""
    if sys.platform == "win32":
        return
    # Until the parent has its handlers and the child its own again, signals wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _NOT_PASSED_ON)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGQUIT,
    ):
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _BY_SIGNAL - code)
