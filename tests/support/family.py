"""The processes around a server that a desktop app starts; Linux only. Run by test_family.py:

    test --> undertaker --> app --> (unpacker -->) server

The undertaker kills the app when a line comes on its stdin, inherits what the app leaves behind, waits for
it and prints its exit code. The unpacker is what a one-file executable has between the app and itself: it
lives as long as the server does. The app starts the server from a thread that ends at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

APP = "APP"  # stands for the number of the app's process in a command
_PR_SET_CHILD_SUBREAPER = 36
_UNPACK = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def family_command(server: Sequence[str], *, unpacked: bool = False) -> list[str]:
    """Return the command that starts them all; the app prints the address of the server."""
    unpacker = [sys.executable, "-c", _UNPACK] if unpacked else []
    return [sys.executable, "-m", "tests.support.family", "undertaker", *unpacker, *server]


def be_undertaker(command: list[str]) -> None:
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    app = subprocess.Popen([sys.executable, "-m", "tests.support.family", "app", *command])
    os.read(0, 1)
    app.kill()
    app.wait()
    _, status = os.wait()
    os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def be_app(command: list[str]) -> None:
    started: list[subprocess.Popen[str]] = []
    command = [str(os.getpid()) if part == APP else part for part in command]

    def start() -> None:
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert started[0].stderr is not None
    for line in started[0].stderr:
        if line.startswith("listening on "):
            os.write(1, line.split()[-1].encode() + b"\n")
            break
    signal.pause()


if __name__ == "__main__":
    {"undertaker": be_undertaker, "app": be_app}[sys.argv[1]](sys.argv[2:])
