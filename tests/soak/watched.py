"""A real server seen from outside and from inside: what it holds, and that it gives everything back."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import Server, StartServer

LIMIT_S = 60.0  # no test waits for it; it only ends a wait for what never comes


@dataclass
class Watched:
    """A server, its process, and the folder for its temporary files."""

    server: Server
    process: psutil.Process
    scratch: Path

    def inside(self) -> dict[str, Any]:
        """Return what the server counts in itself; it frees what it can before."""
        stdin, stdout = self.server.process.stdin, self.server.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(".")
        stdin.flush()
        counted: dict[str, Any] = json.loads(stdout.readline())
        return counted

    def held(self) -> dict[str, Any]:
        """Return everything that requests could leave behind, but memory."""
        counted = self.inside()
        del counted["objects"]
        return {
            **counted,
            "descriptors": self.process.num_fds(),
            "connections": sorted(str(one.status) for one in self.process.net_connections("tcp")),
            "children": [child.pid for child in self.process.children(recursive=True)],
            "files": sorted(path.name for path in self.scratch.rglob("*")),
        }

    def rss_bytes(self) -> int:
        """Return the memory that the process has."""
        resident: int = self.process.memory_info().rss
        return resident

    def traces(self) -> list[str]:
        """Return the lines of the log that no request may cause."""
        return [line for line in self.server.lines if "Traceback" in line or "ERROR" in line]


def start_watched(start_server: StartServer, folder: Path, *flags: str, **variables: str) -> Watched:
    """Start a server that counts; it is ready when this returns."""
    scratch = folder / "scratch"
    scratch.mkdir()
    variables = {"TMPDIR": str(scratch), **variables}
    server = start_server(*flags, module="tests.soak.counted_server", pipe=subprocess.PIPE, **variables)
    assert (
        httpx.get(f"{server.url}/v1/models", timeout=LIMIT_S).status_code == 200
    )  # the application is there
    return Watched(server, psutil.Process(server.process.pid), scratch)


def settled(read: Callable[[], Any], wanted: Any) -> Any:
    """Read until it is as wanted, or for as long as nobody would wait; return what was read last."""
    until = time.monotonic() + LIMIT_S
    while (found := read()) != wanted and time.monotonic() < until:
        threading.Event().wait(0.05)
    return found
