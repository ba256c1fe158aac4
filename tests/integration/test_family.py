"""A server that a desktop app started ends with the app; with real processes that are really killed."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import server_command, server_environment
from tests.support.family import APP, family_command
from tests.support.http_requests import error_in, upload_begun

LIMIT_S = 60.0  # no test waits for it; it only ends a hang

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a test inherit orphans")


@dataclass
class Family:
    """An app, and the server that it started."""

    undertaker: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def kill_app(self) -> None:
        assert self.undertaker.stdin is not None
        self.undertaker.stdin.write("k")
        self.undertaker.stdin.flush()

    def exit_code(self) -> int:
        """Wait until what the app left behind has ended."""
        assert self.undertaker.stdout is not None
        return int(self.undertaker.stdout.readline())

    def check_nobody_listens(self) -> None:
        with socket.socket() as knocking:
            assert knocking.connect_ex(self.address) == errno.ECONNREFUSED


StartFamily = Callable[..., Family]


@pytest.fixture
def start_family(tmp_path: Path) -> Iterator[StartFamily]:
    """Start apps with their servers; all are ended with the test."""
    with ExitStack() as stack:

        def start(*flags: str, unpacked: bool = False) -> Family:
            undertaker = subprocess.Popen(
                family_command(server_command("--port", "0", *flags), unpacked=unpacked),
                cwd=tmp_path,
                env=server_environment(WHISPER_CACHE_DIR=str(tmp_path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(undertaker)
            stack.callback(_kill_all, undertaker.pid)
            assert undertaker.stdout is not None
            return Family(undertaker, undertaker.stdout.readline().strip())

        yield start


def _kill_all(pid: int) -> None:
    """End an undertaker and all of its, where a test has failed."""
    try:
        undertaker = psutil.Process(pid)
        everybody = [*undertaker.children(recursive=True), undertaker]
    except psutil.NoSuchProcess:
        return
    for process in everybody:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


@pytest.mark.long
@linux_only
@pytest.mark.parametrize(
    ("flags", "unpacked"),
    [
        (("--exit-with-parent",), False),
        (("--parent-pid", APP), False),
        (("--parent-pid", APP), True),
        (("--parent-pid", APP, "--exit-with-parent"), True),
    ],
)
def test_it_ends_in_order_with_the_app(
    start_family: StartFamily, flags: tuple[str, ...], unpacked: bool
) -> None:
    family = start_family(*flags, unpacked=unpacked)
    assert (
        httpx.get(f"{family.url}/health", timeout=LIMIT_S).json()["status"] == "ok"
    )  # the thread that started it has ended
    with (
        upload_begun(family.address) as uploading,
        httpx.Client(base_url=family.url, timeout=LIMIT_S) as client,
    ):
        assert client.get("/ready").status_code == 200
        family.kill_app()
        while client.get("/health").json()["status"] != "stopping":
            pass
        uploading.sendall(b"{}")  # what had begun is finished
        assert error_in(uploading)[0] == "HTTP/1.1 400 Bad Request"
    assert family.exit_code() == 0
    family.check_nobody_listens()


@linux_only
def test_it_outlives_the_app_unless_told_otherwise(start_family: StartFamily) -> None:
    family = start_family()
    (app,) = psutil.Process(family.undertaker.pid).children()
    (server,) = app.children()
    family.kill_app()
    psutil.wait_procs([app], timeout=LIMIT_S)
    assert httpx.get(f"{family.url}/v1/models", timeout=LIMIT_S).status_code == 200
    assert server.ppid() == family.undertaker.pid
    server.terminate()
    assert family.exit_code() == 0


@linux_only
def test_it_ends_with_an_unpacker_that_is_killed(start_family: StartFamily) -> None:
    family = start_family("--parent-pid", APP, "--exit-with-parent", unpacked=True)
    (app,) = psutil.Process(family.undertaker.pid).children()
    (unpacker,) = app.children()
    (server,) = unpacker.children()
    end = os.pidfd_open(server.pid)
    try:
        unpacker.kill()
        assert select.select([end], [], [], LIMIT_S)[0] == [end]
    finally:
        os.close(end)
    family.check_nobody_listens()


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected not to start."""
    environment = server_environment(WHISPER_CACHE_DIR=str(cwd))
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_it_does_not_start_after_the_end_of_the_app(tmp_path: Path) -> None:
    app = subprocess.Popen([sys.executable, "-c", ""])
    app.wait()
    ended = run(*server_command("--port", "0", "--parent-pid", str(app.pid)), cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: WHISPER_PARENT_PID: there is no process {app.pid}; it may have ended already\n"
    )


def test_a_one_file_executable_asks_for_the_app(tmp_path: Path) -> None:
    start = (
        "import sys; sys._MEIPASS = '/tmp/_MEI123'; from whisper_server.api.server.run import main;"
        "sys.exit(main(['--port', '0', '--exit-with-parent']))"
    )
    ended = run(sys.executable, "-c", start, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: WHISPER_EXIT_WITH_PARENT: ")
    assert "WHISPER_PARENT_PID" in ended.stderr
