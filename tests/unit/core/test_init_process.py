"""Process 1 of a container: waits for strangers, hands signals on, ends as the server does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.conftest import server_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="adopting strangers without being process 1")

# The parent adopts orphans as process 1 does; the child leaves four, and tells when they are gone.
PROGRAM = """
import ctypes, os, signal, subprocess, sys, time
from whisper_server.core.system.init_process import go_on_in_child
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
first = os.getpid()
go_on_in_child()
assert os.getppid() == first
orphans = []
for _ in range(4):
    out = subprocess.run(["sh", "-c", "sleep 0.2 > /dev/null & echo $!"], capture_output=True).stdout
    orphans.append(int(out))
deadline = time.monotonic() + 30
while any(os.path.exists(f"/proc/{pid}") for pid in orphans) and time.monotonic() < deadline:
    time.sleep(0.01)
own = subprocess.run(["sh", "-c", "exit 7"]).returncode
print(sum(os.path.exists(f"/proc/{pid}") for pid in orphans), own, flush=True)
if sys.argv[1:] == ["exit"]:
    sys.exit(5)
signal.pause()
"""


@contextmanager
def start(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program; what does not end by itself is killed with its child."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    environment = server_environment()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
            process.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_strangers_are_waited_for_and_own_children_are_not_taken() -> None:
    with start("exit") as process:
        assert process.stdout is not None
        assert process.stdout.read() == "0 7\n"
    assert process.returncode == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_handed_on(number: signal.Signals) -> None:
    with start() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
    expected = (
        {128 + number} if number != signal.SIGINT else {1, 128 + number}
    )  # Python's own: KeyboardInterrupt
    assert process.returncode in expected
