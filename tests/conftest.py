"""What all tests share: settings that see no environment, the clips of the nano model, a server beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings as hypothesis_settings

from whisper_server.core.config import Settings
from whisper_server.core.types import ModelSource

# The default ends an example after 0.2 s, which on a busy machine says nothing of the code.
hypothesis_settings.register_profile("no wall clock", deadline=None)
hypothesis_settings.load_profile("no wall clock")

# httpx waits 5 s for an answer, and on a busy machine the first one, which loads a model, takes longer.
for _phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _phase, 60.0)

# `nohup`, and shells that start a job in the background, leave signals ignored that tests send to children.
if sys.platform != "win32":
    for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, _handler)

ROOT = Path(__file__).parents[1]
NANO = ROOT / "models" / "nano-whisper"
SAMPLES = NANO / "samples"
NANO_MODEL = ModelSource("nano-whisper", folder=NANO)  # as the catalog of `nano_settings` has it


@dataclass(frozen=True)
class Sample:
    """One clip of the nano model, and what is said in it."""

    name: str
    kind: str
    language: str
    text: str
    prompt: str
    duration_s: float
    is_robust: bool

    @property
    def data(self) -> bytes:
        return (SAMPLES / self.name).read_bytes()


# Heard right only where products of 8 bits are summed up exactly (x86 with VNNI, Arm): see `onnx_encoder`.
NEEDS_EXACT_SUMS = frozenset({"es-plain-033.flac"})


def all_samples() -> list[Sample]:
    entries = json.loads((SAMPLES / "clips.json").read_text(encoding="utf-8"))
    return [
        Sample(
            entry["file"],
            entry["kind"],
            entry["language"],
            entry["text"],
            entry.get("prompt", ""),
            entry["duration_s"],
            entry.get("robust", False) and entry["file"] not in NEEDS_EXACT_SUMS,
        )
        for entry in entries
    ]


def forget_settings(patch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the environment that runs the tests out of them."""
    for field_info in Settings.model_fields.values():
        patch.delenv(field_info.alias or "", raising=False)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture(scope="session")
def samples() -> dict[str, Sample]:
    """The bundled clips by file name."""
    return {sample.name: sample for sample in all_samples()}


@pytest.fixture
def speech(samples: dict[str, Sample]) -> Sample:
    """2.5 s of English: "house left tree"."""
    return samples["en-plain-000.flac"]


@pytest.fixture(scope="session")
def nano_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole run, so that the nano model is converted once."""
    return tmp_path_factory.mktemp("cache")


@dataclass
class Server:
    """A real server process on a free port."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)  # of stderr, complete once it has ended

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


StartServer = Callable[..., Server]


def server_command(
    *flags: str, python_options: tuple[str, ...] = (), module: str = "whisper_server.api.server"
) -> list[str]:
    return [sys.executable, *python_options, "-m", module, *flags]


def server_environment(**variables: str) -> dict[str, str]:
    """The environment of a server process: this one's, the repository to import from, and these."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "WHISPER_ENGINE": "fake", **variables}


@contextmanager
def servers(folder: Path) -> Iterator[StartServer]:
    """Start real servers in a folder; all are ended when the context is left."""
    with ExitStack() as stack:

        def start(
            *flags: str,
            python_options: tuple[str, ...] = (),
            module: str = "whisper_server.api.server",
            pipe: int | None = None,
            **variables: str,
        ) -> Server:
            process = subprocess.Popen(
                server_command("--port", "0", *flags, python_options=python_options, module=module),
                cwd=folder,
                env=server_environment(**{"WHISPER_CACHE_DIR": str(folder / "cache"), **variables}),
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.PIPE,
                text=True,
            )
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stack.callback(stream.close)
            stack.callback(_end, process)
            server = Server(process, "")
            assert process.stderr is not None
            for line in process.stderr:
                server.lines.append(line)
                if line.startswith("listening on "):
                    server.url = line.split()[-1]
                    break
            assert server.url, server.lines
            # Lines that are not read are dropped, and tests look at them.
            reader = threading.Thread(target=lambda: server.lines.extend(process.stderr or ()))
            reader.start()
            stack.callback(reader.join)
            # Callbacks run last first: end the process, then its reader.
            stack.callback(_end, process, close=False)
            return server

        yield start


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start real servers; all are ended with the test."""
    with servers(tmp_path) as start:
        yield start


def _end(process: subprocess.Popen[str], *, close: bool = True) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if close and process.stderr is not None:
        process.stderr.close()


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A real server with the fake engine."""
    return start_server()
