"""A real process: its start, its settings, its signals and its end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import shlex
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.conftest import NANO, Sample, Server, StartServer, server_command, server_environment
from tests.support.audio_files import clips, encode
from tests.support.http_requests import error_in, upload_begun

URL = "/v1/audio/transcriptions"
HEAVY = {
    "numpy",
    "av",
    "ctranslate2",
    "onnxruntime",
    "tokenizers",
    "huggingface_hub",
    "fastapi",
    "starlette",
    "prometheus_client",
}


def run(*flags: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        server_command(*flags),
        cwd=cwd,
        env=server_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_health_from_the_first_moment(server: Server) -> None:
    body = httpx.get(f"{server.url}/health").json()
    assert body["status"] == "ok"
    assert body["models"] == []
    assert httpx.get(f"{server.url}/v1/models").json()["object"] == "list"  # waits for the application
    body = httpx.get(f"{server.url}/health").json()
    assert body["models"] == []  # nothing was asked for, so nothing was loaded
    assert httpx.get(f"{server.url}/ready").status_code == 200


def test_nothing_heavy_is_imported_before_the_port_is_bound(start_server: StartServer) -> None:
    server = start_server(python_options=("-X", "importtime"))
    before = {line.rpartition("|")[2].strip().partition(".")[0] for line in server.lines}
    assert "uvicorn" in before
    assert not before & HEAVY
    assert httpx.get(f"{server.url}/v1/models").status_code == 200
    assert server.stop() == 0


def test_flags_win_over_the_environment(start_server: StartServer, speech: Sample) -> None:
    server = start_server("--max-audio-seconds", "1", MAX_AUDIO_SECONDS="100", WHISPER_API_KEY="key")
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    response = httpx.post(
        f"{server.url}{URL}", files={"file": speech.data}, headers={"authorization": "Bearer key"}
    )
    assert "1 seconds" in response.json()["error"]["message"]


def test_a_model_named_by_a_flag_is_loaded_and_used(
    start_server: StartServer, speech: Sample, nano_cache: Path
) -> None:
    server = start_server(
        "--model", str(NANO), "--cache-dir", str(nano_cache), "--engine", "ctranslate2", "--offline"
    )
    response = httpx.post(f"{server.url}{URL}", files={"file": speech.data}, timeout=60)
    assert response.json()["text"] == speech.text
    models = httpx.get(f"{server.url}/health").json()["models"]
    assert [(model["name"], model["state"]) for model in models] == [("nano-whisper", "ready")]
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (("--port", "x"), {}, "WHISPER_SERVER_PORT: "),
        ((), {"LOG_LEVEL": "loud"}, "LOG_LEVEL: "),
        (("--model", "nobody"), {}, "WHISPER_MODEL: "),
        ((), {"WHISPER_MODELS": "a=b"}, "WHISPER_MODELS: "),
        ((), {"WHISPER_MODELS": "a=./nowhere"}, "WHISPER_MODELS: "),
        ((), {"WHISPER_PRELOAD": "nobody"}, "WHISPER_PRELOAD: "),
    ],
)
def test_a_bad_setting_ends_the_start(
    tmp_path: Path, flags: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    ended = run(*flags, cwd=tmp_path, **variables)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1


def test_a_taken_port_ends_the_start(server: Server, tmp_path: Path) -> None:
    ended = run("--port", str(server.address[1]), cwd=tmp_path)
    assert ended.returncode == 1
    assert re.fullmatch(r"error: cannot listen on 127\.0\.0\.1:\d+: .*in use.*\n", ended.stderr)


def test_a_host_that_is_not_ours_ends_the_start(tmp_path: Path) -> None:
    ended = run("--host", "192.0.2.1", "--port", "0", "--allow-unauthenticated", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: cannot listen on 192.0.2.1:0: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_it_does_not_serve_strangers_by_accident(tmp_path: Path, host: str) -> None:
    ended = run("--port", "0", cwd=tmp_path, WHISPER_SERVER_HOST=host)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: WHISPER_SERVER_HOST: ")
    assert "WHISPER_API_KEY" in ended.stderr
    assert "WHISPER_ALLOW_UNAUTHENTICATED" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("variables", [{"WHISPER_API_KEY": "key"}, {"WHISPER_ALLOW_UNAUTHENTICATED": "true"}])
def test_it_serves_other_machines_when_told_to(start_server: StartServer, variables: dict[str, str]) -> None:
    server = start_server("--host", "0.0.0.0", **variables)
    assert httpx.get(f"http://127.0.0.1:{server.address[1]}/health").status_code == 200


def test_a_name_that_cannot_be_resolved_ends_the_start(tmp_path: Path) -> None:
    ended = run("--host", "nowhere.invalid", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: cannot listen on nowhere.invalid:")


def test_it_can_listen_on_a_name(start_server: StartServer) -> None:
    server = start_server("--host", "localhost")
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")
def test_every_address_is_that_of_both_families(start_server: StartServer) -> None:
    server = start_server("--host", "::", "--allow-unauthenticated")
    port = server.address[1]
    for host in ("127.0.0.1", "[::1]", "localhost"):
        assert httpx.get(f"http://{host}:{port}/health").status_code == 200


def test_one_address_of_ipv6_is_that_one_alone(start_server: StartServer) -> None:
    server = start_server("--host", "::1")
    assert httpx.get(f"{server.url}/health").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.url.rpartition(':')[2]}/health")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(server: Server, speech: Sample, number: signal.Signals) -> None:
    assert httpx.post(f"{server.url}{URL}", files={"file": speech.data}).status_code == 200
    (decoder,) = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(number)
    assert server.process.wait(timeout=60) == 0
    assert not decoder.is_running()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_signal_right_after_the_start(start_server: StartServer) -> None:
    server = start_server()
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_the_port_is_bound(tmp_path: Path, number: signal.Signals) -> None:
    command = server_command("--port", "0", python_options=("-X", "importtime"))
    process = subprocess.Popen(
        command, cwd=tmp_path, env=server_environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == "uvicorn":
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in rest


def test_what_nohup_ignores_stays_ignored(start_server: StartServer) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # children have it too
    try:
        server = start_server()
    finally:
        signal.signal(signal.SIGHUP, before)
    server.process.send_signal(signal.SIGHUP)
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert server.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("hard_limit", [48, 128, 500])
def test_few_descriptors_are_fewer_connections(tmp_path: Path, hard_limit: int) -> None:
    """Said once at the start; with all of them taken the next client is still answered."""
    limited = f"ulimit -n {hard_limit}; exec " + shlex.join(server_command("--port", "0"))
    process = subprocess.Popen(
        ["sh", "-c", limited],
        cwd=tmp_path,
        env=server_environment(WHISPER_MAX_CONNECTIONS="65536", WHISPER_DECODER_PROCESSES="0"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("listening on "):
            break
    address = ("127.0.0.1", int(lines[-1].rpartition(":")[2]))
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    reader.start()
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(700):
                stack.enter_context(socket.create_connection(address, timeout=60))
            for _ in range(3):
                reply = httpx.get(f"http://127.0.0.1:{address[1]}/health", timeout=60)
                assert reply.status_code == 200
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
        reader.join()
        process.stderr.close()
    said = [line for line in lines if "open files" in line]
    assert len(said) == 1
    assert f"the system allows {hard_limit} open files" in said[0]
    assert len(lines) < 20
    assert not any("Traceback" in line for line in lines)


def test_running_work_ends_within_the_grace_period(server: Server) -> None:
    with upload_begun(server.address) as connection:
        server.process.terminate()
        connection.sendall(b"{}")
        status, error = error_in(connection)
        assert status == "HTTP/1.1 400 Bad Request"
        assert error["param"] == "audio"
    assert server.process.wait(timeout=60) == 0


@pytest.mark.long
def test_a_decode_that_outlives_the_grace_period_is_left_behind(
    start_server: StartServer, nano_cache: Path
) -> None:
    server = start_server(
        *("--model", str(NANO), "--shutdown-grace-s", "0"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
    )
    while httpx.get(f"{server.url}/ready").status_code != 200:
        pass
    clip = next(clip for clip in clips() if clip.path.name == "en-plain-005.flac")
    lecture = encode(np.tile(clip.samples(), 60), container="flac", codec="flac")
    busy = psutil.Process(server.process.pid)
    before_s = sum(busy.cpu_times()[:2])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reply = pool.submit(httpx.post, f"{server.url}{URL}", files={"file": lecture}, timeout=60)
        while sum(busy.cpu_times()[:2]) - before_s < 1.0:  # it is decoding: eleven minutes take longer
            assert not reply.done()
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        assert reply.result().status_code == 503
    assert not [line for line in server.lines if "Traceback" in line or "terminate called" in line]


def test_work_that_goes_on_after_the_grace_period_gets_a_503(start_server: StartServer) -> None:
    server = start_server("--shutdown-grace-s", "0")
    with upload_begun(server.address) as connection:
        server.process.terminate()
        status, error = error_in(connection)
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert "shutting down" in error["message"]
    assert server.process.wait(timeout=60) == 0
    assert not [line for line in server.lines if "Traceback" in line]


@pytest.mark.long
@pytest.mark.parametrize(("level", "path"), [("INFO", "/v1/models"), ("DEBUG", "/health")])
def test_an_app_that_reads_one_line_and_no_more(tmp_path: Path, level: str, path: str) -> None:
    """Its pipe is full after 64 kB of log; nothing waits for that."""
    with subprocess.Popen(
        server_command("--port", "0", "--log-level", level, "--shutdown-grace-s", "5"),
        cwd=tmp_path,
        env=server_environment(WHISPER_CACHE_DIR=str(tmp_path / "cache")),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]
        try:
            with httpx.Client(base_url=url, timeout=30, headers={"x-request-id": "a" * 64}) as client:
                assert [client.get(path).status_code for _ in range(2000)] == [200] * 2000
                assert client.get("/health").json()["status"] == "ok"
            process.terminate()
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()
        written = process.stderr.read()
    assert 0 < written.count(f" path={path} ") < 2000  # the pipe was full


def test_probes_are_no_lines_of_the_log(server: Server) -> None:
    for path in ("/health", "/ready", "/v1/models", "/health", "/ready"):
        httpx.get(f"{server.url}{path}")
    found = httpx.get(f"{server.url}/metrics").text
    assert re.search(r'whisper_requests_total{method="GET",route="/health",status="200"} [1-9]', found)
    assert server.stop() == 0
    assert not [line for line in server.lines if "/health" in line or "/ready" in line]
    assert [line for line in server.lines if " path=/v1/models " in line]
