"""What all tests share: settings that see no environment, a client in the process, a server beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from whisper_server.api.app import create_app
from whisper_server.core.config import Settings

ROOT = Path(__file__).parents[1]
NANO = ROOT / "models" / "nano-whisper"
SAMPLES = NANO / "samples"

MakeSettings = Callable[..., Settings]
OpenClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


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
            entry.get("robust", False),
        )
        for entry in entries
    ]


def forget_settings(patch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
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


@pytest.fixture
def settings(tmp_path: Path) -> MakeSettings:
    """Make settings with the fake engine, and without the process that decodes: it starts in 0.1 s."""
    quick = {"engine": "fake", "cache_dir": tmp_path / "cache", "decoder_processes": 0}

    def make(**fields: Any) -> Settings:
        return Settings(_env_file=None, **{**quick, **fields})

    return make


@pytest.fixture
def nano_settings(nano_cache: Path) -> Settings:
    """Settings with the nano model and the real engine."""
    return Settings(
        _env_file=None,
        model=str(NANO),
        cache_dir=nano_cache,
        offline=True,
        threads=1,
        decoder_processes=0,  # see `settings`
    )


@asynccontextmanager
async def client_of(app_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application and its lifespan; yield a client that talks to it without a socket."""
    app = create_app(app_settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        client.app = app
        yield client


@pytest.fixture
def open_client(settings: MakeSettings) -> OpenClient:
    """Open a client of an application with these settings, on the fake engine."""
    return lambda **fields: client_of(settings(**fields))


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with the fake engine."""
    async with open_client() as opened:
        yield opened


@pytest.fixture
async def nano_client(nano_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with the nano model."""
    async with client_of(nano_settings) as opened:
        yield opened


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
            # Lines that nobody reads are dropped, and tests look at them.
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
