"""What a cluster costs over one process: `python -m bench.experiments.cluster [--replicas 1 2 4]`.

The same file goes through the services of one process, and through a cluster of this machine with one front
and so many replicas, each with one thread. Counted is processor time, which other work on the machine changes
less than it changes the clock, of every process by what it is; idle, the cluster takes some too, which is
measured beforehand and left out. With the nano model, which takes little itself, the rest shows; `--model`
takes the folder of another one. Memory is what each process has for itself (USS) at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from bench.figures import table
from whisper_server.core.config import Settings
from whisper_server.core.types import ModelSource, TranscribeParams
from whisper_server.services.container import open_services

ROOT = Path(__file__).parents[2]
NANO = ROOT / "models" / "nano-whisper"
PORT = 18_090
IDLE_S = 20.0
KINDS = {"Front": "front", "Models": "replicas", "Board": "board", "ProxyActor": "proxy", "raylet": "raylet"}


def kind_of(command: str) -> str:
    """Return what a process of the cluster is."""
    return next((name for word, name in KINDS.items() if word in command), "rest of Ray")


def own_mib(root: int) -> dict[str, int]:
    """Return the memory of the largest process of each kind that no other process shares, in MiB."""
    found: dict[str, int] = {}
    for each in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            kind = kind_of(" ".join(each.cmdline()))
            found[kind] = max(found.get(kind, 0), each.memory_full_info().uss >> 20)
    return found


def cpu_s(root: int) -> Counter[str]:
    """Return the seconds of processor time of all processes below one, by what they are."""
    found: Counter[str] = Counter()
    for each in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            found[kind_of(" ".join(each.cmdline()))] += times.user + times.system
    return found


@contextlib.contextmanager
def cluster(folder: Path, model: Path, replicas: int) -> Iterator[int]:
    """Run a cluster of one front; yield the command's process."""
    import yaml

    content = yaml.safe_load((ROOT / "docs" / "cluster.yaml").read_text(encoding="utf-8"))
    content["http_options"]["port"] = PORT
    (application,) = content["applications"]
    application["args"]["settings"] = {
        "WHISPER_MODEL": str(model),
        "WHISPER_PRELOAD": model.name,
        "WHISPER_THREADS": 1,
        "WHISPER_CACHE_DIR": str(folder / "cache"),
    }
    for deployment, number in zip(application["deployments"], (1, replicas), strict=True):
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = number
        deployment["ray_actor_options"]["num_cpus"] = 0.1
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, str(ROOT / "whisper_api_server.py"), "cluster", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        while "listening on" not in (folder / "log").read_text(encoding="utf-8"):
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")[-2000:]
            time.sleep(0.5)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask(data: bytes) -> str:
    with httpx.Client(timeout=1200) as client:
        reply = client.post(
            f"http://127.0.0.1:{PORT}/v1/audio/transcriptions", files={"file": ("a.wav", data)}
        )
    text: str = reply.raise_for_status().json()["text"]
    return text


async def alone(folder: Path, model: Path, data: bytes) -> tuple[str, float, float, int]:
    """Return the text, the processor time and the time of one process, and the windows."""
    settings = Settings(
        _env_file=None, model=str(model), cache_dir=folder / "cache", threads=1, decoder_processes=0
    )
    async with open_services(settings) as services:
        params = TranscribeParams(ModelSource(model.name, folder=model))
        await services.transcriber.transcribe(data, params)
        before, started = time.process_time(), time.monotonic()
        opened = await services.transcriber.open(data, params)
        transcript = await opened.collect()
        return (
            transcript.text,
            time.process_time() - before,
            time.monotonic() - started,
            opened.windows_done,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--model", type=Path, default=NANO)
    arguments = parser.parse_args()
    from tests.support.long_audio import speak_for

    data = speak_for(arguments.minutes * 60)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, seconds, wall_s, n_windows = asyncio.run(alone(folder, arguments.model, data))
        rows.append(["one process", f"{seconds / n_windows * 1000:.0f}", f"{wall_s:.1f}", ""])
        for replicas in arguments.replicas:
            with cluster(folder, arguments.model, replicas) as pid:
                ask(data)
                before = cpu_s(pid)
                time.sleep(IDLE_S)
                idle = cpu_s(pid) - before
                before, started = cpu_s(pid), time.monotonic()
                assert ask(data) == text
                wall_s = time.monotonic() - started
                spent, memory = cpu_s(pid), own_mib(pid)
            used = {kind: spent[kind] - before[kind] - idle[kind] * wall_s / IDLE_S for kind in sorted(spent)}
            parts = ", ".join(f"{kind} {value / n_windows * 1000:.0f}" for kind, value in used.items())
            total = f"{sum(used.values()) / n_windows * 1000:.0f}"
            rows.append([f"cluster, {replicas} replicas", total, f"{wall_s:.1f}", parts])
            print(f"idle, seconds per second: {sum(idle.values()) / IDLE_S:.2f}; MiB: {memory}")
    print(f"{n_windows} windows of {arguments.minutes} minutes; ms of processor time per window")
    print(table(["", "ms per window", "s", "of it"], rows))


if __name__ == "__main__":
    main()
