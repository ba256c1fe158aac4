"""Clusters on this machine: two fronts, two model replicas, the nano model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import NANO, ROOT

QUEUE_REQUESTS = 40  # per front


def config(port: int, replicas: int = 2) -> dict[str, Any]:
    """Return the example of the docs with the nano model, and so many fronts and replicas."""
    import yaml

    made: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "cluster.yaml").read_text(encoding="utf-8"))
    made["http_options"]["port"] = port
    made["proxy_location"] = "HeadOnly"  # all machines of the tests have one address
    (application,) = made["applications"]
    application["args"]["settings"] = {
        "WHISPER_MODEL": str(NANO),
        "WHISPER_PRELOAD": "nano-whisper",
        "WHISPER_THREADS": 1,
        "WHISPER_QUEUE_REQUESTS": QUEUE_REQUESTS,
        "WHISPER_SHUTDOWN_GRACE_S": 240,
    }
    for each in application["deployments"]:
        del each["autoscaling_config"]
        each["num_replicas"] = replicas
        each["ray_actor_options"]["num_cpus"] = 0.1
    return made


@dataclass
class Cluster:
    """The command, the address of the API, and the processes that Ray has started for it."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    lines: list[str]  # of the log, as they come

    @property
    def address(self) -> str:
        """Where Ray is: `auto` would be the cluster that was started last on this machine."""
        words = [word for each in psutil.Process(self.process.pid).children() for word in each.cmdline()]
        (found,) = {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}
        return found

    def pids(self, deployment: str) -> set[int]:
        """Return the processes of a deployment that are there now."""
        return replicas_below(self.process.pid, deployment)


def replicas_below(root: int, deployment: str) -> set[int]:
    """Return the processes of a deployment that come from this one."""
    wanted = f"ray::ServeReplica:whisper:{deployment}"
    found = set()
    for each in psutil.Process(root).children(recursive=True):
        try:
            if " ".join(each.cmdline()).startswith(wanted):
                found.add(each.pid)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


@contextmanager
def another_machine(cluster: Cluster, cache: Path) -> Iterator[int]:
    """Join another node to the cluster, in processes of its own; yield the first of them."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--address={cluster.address}"]
    flags = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000"]
    with (cluster.folder / "node.log").open("w") as log:
        node = subprocess.Popen([*command, *flags], env=environment_of(cache), stdout=log, stderr=log)
    try:
        yield node.pid
    finally:
        end_all(node.pid)
        node.wait()


def end_all(root: int) -> None:
    """End a process and all that come from it, as a machine that loses its power does."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(root)
        for each in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def environment_of(cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WHISPER_CACHE_DIR": str(cache),
        "WHISPER_OFFLINE": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",  # every line of every process
        "RAY_AUTH_MODE": "disabled",  # no token is written into the home folder
        "RAY_num_prestart_python_workers": "0",
        "RAY_TMPDIR": "/tmp",  # paths of sockets are short
    }


def command(folder: Path, content: dict[str, Any], *flags: str) -> list[str]:
    import yaml

    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return [sys.executable, str(ROOT / "whisper_api_server.py"), "cluster", str(file), *flags]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, nano_cache: Path) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster"), config(free_port()), nano_cache) as started:
        yield started


@contextmanager
def running(folder: Path, content: dict[str, Any], cache: Path) -> Iterator[Cluster]:
    """Run the command with a config file, and end it."""
    process = subprocess.Popen(
        command(folder, content),
        cwd=folder,
        env=environment_of(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    url = ""
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith("listening on "):
            url = line.split()[-1]
            break
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    try:
        assert url, "".join(lines)
        yield Cluster(process, url, folder, lines)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            reader.join()
            process.stdout.close()
