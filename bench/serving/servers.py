"""The servers that are compared: how each is started on the same weights and cores, and ended again.

Owns processes, ports and weight files; knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psutil

from bench.grow import NANO, SHAPES, grow
from bench.serving import environments

ROOT = Path(__file__).resolve().parents[2]
OURS = "whisper-server"
START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What all servers of one comparison share."""

    size: str
    beam: int = 0  # 0: the default of each
    vad: str = "default"  # default: as each comes; on, off: where it can be chosen
    cores: int = os.cpu_count() or 1
    build: Path = environments.BUILD
    whisper_cpp: Path | None = None  # its server
    serves: tuple[str, ...] = ()  # more flags for our server
    weights: Path | None = None  # real ones in Hugging Face format, in place of the grown model


@dataclass(frozen=True, slots=True)
class Started:
    """A process that answers `/health`."""

    name: str
    port: int
    process: psutil.Process
    started_at: float  # time.perf_counter() just before the process was made
    health_s: float  # from then to the answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processor_s(self) -> float:
        """Return the processor time that the process and its children have taken."""
        spent = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in spent)

    def memory_mb(self) -> float:
        """Return what the process and its children have in memory; what they share counts once (PSS)."""
        alive = [self.process, *self.process.children(recursive=True)]
        total = 0
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                full = process.memory_full_info()
                total += getattr(full, "pss", full.rss)  # only Linux tells what is shared
        return total / 1e6


def checkpoint(setup: Setup) -> Path:
    """Return the weights in Hugging Face format: given ones, the bundled nano model, or it grown."""
    if setup.weights:
        return setup.weights
    if setup.size == "nano":
        return NANO
    return grow(SHAPES[setup.size], setup.build / "grown" / setup.size)


def converted(setup: Setup) -> Path:
    """Return the weights in 8 bits for CTranslate2 alone, its encoder included, by our own converter."""
    from whisper_server.services.engines.ct2.convert import ensure_converted

    return ensure_converted(checkpoint(setup), setup.build / "cache", "int8")


def openai_file(setup: Setup) -> Path:
    """Return the weights as openai-whisper loads them."""
    file = setup.build / "grown" / f"{setup.size}.pt"
    if not file.is_file():
        interpreter = environments.python("openai-whisper", setup.build)
        script = ROOT / "bench" / "serving" / "peers" / "openai_weights.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(interpreter), str(script), str(checkpoint(setup)), str(file)], check=True)
    return file


def _ggml_file(setup: Setup, *, is_8_bit: bool) -> Path:
    from bench.serving.peers import ggml_weights

    file = setup.build / "grown" / f"ggml-{setup.size}.bin"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        ggml_weights.write(checkpoint(setup), file)
    if not is_8_bit:
        return file
    small = file.with_suffix(".q8_0.bin")
    if not small.is_file():
        assert setup.whisper_cpp is not None
        command = [str(setup.whisper_cpp.with_name("whisper-quantize")), str(file), str(small), "q8_0"]
        subprocess.run(command, check=True, capture_output=True)
    return small


def _ours(setup: Setup, port: int) -> list[str]:
    from whisper_server.services.engines.base import EngineSpec
    from whisper_server.services.engines.registry import prepare_engine

    prepare_engine(checkpoint(setup), EngineSpec(), setup.build / "cache")
    command = [sys.executable, str(ROOT / "whisper_api_server.py"), "--port", str(port)]
    command += ["--model", str(checkpoint(setup)), "--log-level", "warning"]
    command += ["--beam-size", str(setup.beam)] if setup.beam else []
    command += ["--no-vad"] if setup.vad == "off" else []
    return [*command, *setup.serves]


def _peer(setup: Setup, port: int, script: str, weights: Path, *flags: str) -> list[str]:
    interpreter = environments.python(script.removesuffix("_server").replace("_", "-"), setup.build)
    path = ROOT / "bench" / "serving" / "peers" / f"{script}.py"
    command = [str(interpreter), str(path), "--model", str(weights), "--port", str(port)]
    return [*command, "--threads", str(setup.cores), "--beam", str(setup.beam), *flags]


def _faster_whisper(setup: Setup, port: int, *flags: str) -> list[str]:
    vad = ["--vad"] if setup.vad == "on" else []
    return _peer(setup, port, "faster_whisper_server", converted(setup), *flags, *vad)


def _whisper_cpp(setup: Setup, port: int, *, is_8_bit: bool) -> list[str]:
    command = [str(setup.whisper_cpp), "--model", str(_ggml_file(setup, is_8_bit=is_8_bit))]
    command += ["--port", str(port), "--inference-path", "/v1/audio/transcriptions", "--language", "auto"]
    return [*command, "--threads", str(setup.cores), *(["-bs", str(setup.beam)] if setup.beam else [])]


COMMANDS: dict[str, Callable[[Setup, int], list[str]]] = {
    OURS: _ours,
    "faster-whisper": _faster_whisper,
    "faster-whisper batched": lambda setup, port: _faster_whisper(setup, port, "--batched"),
    "faster-whisper workers": lambda setup, port: _faster_whisper(setup, port, "--workers", str(setup.cores)),
    "openai-whisper": lambda setup, port: _peer(setup, port, "openai_whisper_server", openai_file(setup)),
    "transformers": lambda setup, port: _peer(setup, port, "transformers_server", checkpoint(setup)),
    "whisper.cpp": lambda setup, port: _whisper_cpp(setup, port, is_8_bit=False),
    "whisper.cpp q8_0": lambda setup, port: _whisper_cpp(setup, port, is_8_bit=True),
}


def available(setup: Setup, wanted: list[str]) -> list[str]:
    """Return the servers that can be run here; say which cannot."""
    found = []
    for name in wanted:
        if name.startswith("whisper.cpp") and setup.whisper_cpp is None:
            print(f"{name} is left out: no --whisper-cpp, no --whisper-cpp-source", file=sys.stderr)
            continue
        found.append(name)
    return found


def prepare(setup: Setup, names: list[str]) -> None:
    """Make environments and weights before anything is timed."""
    for name in names:
        COMMANDS[name](setup, 0)


@contextlib.contextmanager
def running(name: str, setup: Setup) -> Iterator[Started]:
    """Start the server on a free port, wait for `/health`, end it afterwards."""
    port = _free_port()
    command = COMMANDS[name](setup, port)
    logs = setup.build / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    started_at = time.perf_counter()
    with (logs / f"{name}.log").open("w") as log, _process(command, setup, log.fileno()) as process:
        server = Started(name, port, psutil.Process(process.pid), started_at, 0.0)
        while not _answers(port):
            if process.poll() is not None or time.perf_counter() - started_at > START_TIMEOUT_S:
                raise RuntimeError(f"{name} did not start; its output is in {log.name}")
            time.sleep(0.005)
        yield replace(server, health_s=time.perf_counter() - started_at)


@contextlib.contextmanager
def _process(command: list[str], setup: Setup, log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command; our processes see neither a hub nor settings of the caller's `.env`."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WHISPER_")},
        "OMP_NUM_THREADS": str(setup.cores),
        "WHISPER_CACHE_DIR": str(setup.build / "cache"),
        "WHISPER_OFFLINE": "true",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(command, env=environment, cwd=setup.build, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # busy with requests whose clients have disconnected
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@cache
def processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()
