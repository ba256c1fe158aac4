"""With WHISPER_OFFLINE a real server and a real command open no connection: their own process says so.

An audit hook, put into the child before any of our code runs, writes down every socket that is connected and
every name that is looked up. HF_ENDPOINT names a port that the test listens on, so that a connection which
passes the hook by is seen on the other side.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import NANO, ROOT, SAMPLES, Sample, StartServer, server_environment
from tests.support.stand_in_hub import SOURCE, Hub
from whisper_server.services.model_files.hub.fetch import download_repository

pytestmark = pytest.mark.long

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
HOOK = """
import os, sys

def watch(event, arguments):
    if event in {"socket.connect", "socket.sendto"}:
        asked = str(arguments[1])
    elif event in %r:
        asked = str(arguments[0])
    else:
        return
    with open(os.environ["SEEN"], "a", encoding="utf-8") as file:
        file.write(f"{event} {asked}\\n")

sys.addaudithook(watch)
"""
# What FastAPI from 0.165 on reports to, as the process ends; nothing is imported for the question.
PROVIDERS = """
import atexit

@atexit.register
def tell():
    kinds = {"trace": "tracer", "metrics": "meter", "_logs": "logger"}
    modules = {kind: sys.modules.get(f"opentelemetry.{name}") for name, kind in kinds.items()}
    found = [type(getattr(m, f"get_{kind}_provider")()).__name__ for kind, m in modules.items() if m]
    with open(os.environ["PROVIDERS"], "w", encoding="utf-8") as file:
        file.write(" ".join(found))
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what processes that are started from here connect to and look up."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOOK % (set(LOOKUPS),))
    path = tmp_path / "seen"
    path.touch()
    monkeypatch.setenv("SEEN", str(path))
    return path


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the model hub would be; no connection comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def variables(seen: Path, **more: str) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{seen.parent / 'site'}:{ROOT}",
        "WHISPER_ENGINE": "ctranslate2",
        "WHISPER_MODELS": f"theirs=someone/nano,mine={NANO}",
        "WHISPER_THREADS": "1",
        **more,
    }


def connections(seen: Path) -> list[str]:
    """Return what went out; the name that the server listens on is looked up before it listens."""
    own = [f"{event} 127.0.0.1" for event in LOOKUPS]
    return [line for line in seen.read_text(encoding="utf-8").splitlines() if line not in own]


def nobody_came(canary: socket.socket) -> bool:
    try:
        canary.accept()
    except BlockingIOError:
        return True
    return False


def ask(url: str, speech: Sample, model: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/audio/transcriptions", files={"file": speech.data}, data={"model": model}, timeout=120
    )


def test_a_server_without_a_network(
    stand_in: Hub,
    start_server: StartServer,
    tmp_path: Path,
    seen: Path,
    speech: Sample,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    cache = tmp_path / "cache"
    download_repository(SOURCE, cache)
    asked = len(stand_in.seen)
    canary = request.getfixturevalue("canary")  # from now on the hub is there
    server = start_server(**variables(seen, WHISPER_CACHE_DIR=str(cache), WHISPER_OFFLINE="true"))
    for name in ("theirs", "mine", "theirs"):
        reply = ask(server.url, speech, name)
        assert (reply.status_code, reply.json()["text"]) == (200, speech.text)
    for _ in range(2):
        refused = ask(server.url, speech, "whisper-small")
        assert refused.status_code == 503
        assert "WHISPER_OFFLINE" in refused.json()["error"]["message"]
    assert ask(server.url, speech, "someone/else").status_code == 404
    for method, path in (
        ("POST", "whisper-base"),
        ("POST", "theirs"),
        ("DELETE", "theirs"),
        ("GET", "theirs"),
    ):
        httpx.request(method, f"{server.url}/v1/models/{path}", timeout=120)
    assert server.stop() == 0
    assert connections(seen) == []
    assert nobody_came(canary)
    assert len(stand_in.seen) == asked


@pytest.mark.parametrize(
    "arguments", [("models", "pull", "theirs"), ("models", "list"), ("models", "path", "theirs")]
)
def test_commands_without_a_network(
    canary: socket.socket, tmp_path: Path, seen: Path, arguments: tuple[str, ...]
) -> None:
    done = run(arguments, tmp_path, variables(seen, WHISPER_OFFLINE="true"))
    assert done.returncode == (0 if "list" in arguments else 1), done.stderr
    assert connections(seen) == []
    assert nobody_came(canary)


def test_the_command_line_without_a_network(
    canary: socket.socket, tmp_path: Path, seen: Path, samples: dict[str, Sample]
) -> None:
    clip = str(NANO / "samples" / "en-plain-000.flac")
    for model, code in (("mine", 0), ("theirs", 1)):
        command = ("transcribe", "--model", model, clip)
        assert run(command, tmp_path, variables(seen, WHISPER_OFFLINE="true")).returncode == code
    assert connections(seen) == []
    assert nobody_came(canary)


def test_the_hook_sees_a_download_that_is_not_forbidden(
    canary: socket.socket, tmp_path: Path, seen: Path
) -> None:
    """Without the switch the same command goes to the hub: the watch can fail."""
    canary.close()
    done = run(("models", "pull", "theirs"), tmp_path, variables(seen))
    assert done.returncode == 1
    assert any("socket.connect" in line for line in connections(seen))


def run(arguments: tuple[str, ...], folder: Path, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "whisper_api_server.py"), *arguments]
    environment = server_environment(**{"WHISPER_CACHE_DIR": str(folder / "cache"), **more})
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def is_installed(*modules: str) -> bool:
    """Tell whether all of them are there; name packages before what is in them."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


@pytest.mark.parametrize("auto", ["", "true"])
def test_traces_go_nowhere(
    canary: socket.socket, start_server: StartServer, seen: Path, speech: Sample, tmp_path: Path, auto: str
) -> None:
    """OpenTelemetry's variables are often there for others; without its SDK there is nothing to send with."""
    if auto and is_installed("opentelemetry", "opentelemetry.sdk"):
        pytest.skip("has OpenTelemetry's SDK, and is told to use it")
    with (seen.parent / "site" / "sitecustomize.py").open("a") as file:
        file.write(PROVIDERS)
    told = tmp_path / "providers"
    endpoint = f"http://127.0.0.1:{canary.getsockname()[1]}"
    server = start_server(
        **variables(
            seen,
            PROVIDERS=str(told),
            WHISPER_OFFLINE="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{endpoint}/v1/traces",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_LOGS_EXPORTER="otlp",
            OTEL_SERVICE_NAME="whisper",
            OTEL_BSP_SCHEDULE_DELAY="10",  # ms
            OTEL_METRIC_EXPORT_INTERVAL="10",
            FASTAPI_OTEL_AUTO_CONFIGURE=auto,
        )
    )
    reply = ask(server.url, speech, "mine")
    assert (reply.status_code, reply.json()["text"]) == (200, speech.text)
    assert httpx.get(f"{server.url}/nowhere").status_code == 404
    assert server.stop() == 0
    assert connections(seen) == []
    assert nobody_came(canary)
    found = told.read_text(encoding="utf-8").split()
    assert set(found) <= {"ProxyTracerProvider", "_ProxyMeterProvider", "ProxyLoggerProvider"}
    assert bool(found) == is_installed("fastapi.telemetry")


def test_no_library_begins_to_report(tmp_path: Path, speech: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Native code passes the hook by; onnxruntime's telemetry begins with a file that names the machine."""
    home = tmp_path / "home"
    home.mkdir()
    says_no = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY")  # to onnxruntime
    for name in (*says_no, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    command = ("transcribe", "--model", str(NANO), str(SAMPLES / speech.name))
    done = run(command, tmp_path, {"HOME": str(home), "WHISPER_ENGINE": "ctranslate2"})
    assert (done.returncode, done.stdout) == (0, f"{speech.text}\n"), done.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
