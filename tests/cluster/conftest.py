"""One cluster on this machine for all tests of the folder: two fronts, two model replicas, the nano model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import NANO, ROOT

pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt")

CONFIG: dict[str, Any] = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "127.0.0.1"},
    "applications": [
        {
            "name": "whisper",
            "route_prefix": "/",
            "import_path": "whisper_server.cluster.deployments:build",
            "args": {
                "settings": {
                    "WHISPER_MODEL": str(NANO),
                    "WHISPER_PRELOAD": "nano-whisper",
                    "WHISPER_THREADS": 1,
                }
            },
            "deployments": [
                {"name": "Front", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}},
                {"name": "Models", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}},
            ],
        }
    ],
}


@dataclass
class Cluster:
    """The command, the address of the API, and the processes that Ray has started for it."""

    process: subprocess.Popen[str]
    url: str

    def pids(self, deployment: str) -> set[int]:
        """Return the processes of a deployment that are there now."""
        import psutil

        wanted = f"ray::ServeReplica:whisper:{deployment}"
        found = set()
        for each in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(each.cmdline()).startswith(wanted):
                    found.add(each.pid)
            except psutil.Error:  # it has ended meanwhile
                continue
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def environment(cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WHISPER_CACHE_DIR": str(cache),
        "WHISPER_OFFLINE": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # no token is written into the home folder
        "RAY_num_prestart_python_workers": "0",
        "RAY_TMPDIR": "/tmp",  # paths of sockets are short
    }


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, nano_cache: Path) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    config = json.loads(json.dumps(CONFIG))
    config["http_options"]["port"] = free_port()
    file = folder / "cluster.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, str(ROOT / "whisper_api_server.py"), "cluster", str(file)]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(nano_cache), stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    url = ""
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if line.startswith("listening on "):
            url = line.split()[-1]
            break
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    reader.start()
    try:
        assert url, "".join(lines)
        yield Cluster(process, url)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            reader.join()
            process.stderr.close()


@pytest.fixture
async def client(cluster: Cluster) -> Any:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as opened:
        yield opened
