"""`whisper-transcribe --server URL`: a real server does the work as jobs, the text comes here."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from tests.conftest import SAMPLES, Server, StartServer
from tests.support.audio_files import Sound, film, samples_of
from tests.support.gated_server import wait_for_batch
from tests.support.http_requests import HEARD, URL, form
from tests.support.job_requests import JOBS
from whisper_server.cli import remote
from whisper_server.cli.remote import RemoteServer
from whisper_server.cli.transcribe import main

pytestmark = pytest.mark.long

CLIP = SAMPLES / "en-plain-000.flac"


@pytest.fixture(autouse=True)
def _nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ENGINE", "fake")
    monkeypatch.setattr(remote, "RETRY_S", 0.05)


def at_once(server: Server, **fields: str) -> str:
    return httpx.post(server.url + URL, **form(CLIP.read_bytes(), **fields), timeout=60).text


def test_files_go_to_the_server_and_texts_come_back(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--server", server.url, str(CLIP)]) == 0
    assert capfd.readouterr().out == at_once(server, response_format="text")
    broken = tmp_path / "notes.txt"
    broken.write_text("this is not audio")
    files = [str(CLIP), str(broken)]
    shown = ["--format", "srt", "--max-line-chars", "20", "--output", "out"]
    assert main(["--server", f"{server.url}/v1/", *shown, *files]) == 1
    assert (tmp_path / "out" / f"{CLIP.stem}.srt").read_text() == at_once(
        server, response_format="srt", max_line_chars="20"
    )
    assert "notes.txt: " in capfd.readouterr().err
    statuses = [job["status"] for job in httpx.get(server.url + JOBS).json()["data"]]
    assert statuses == ["completed"] * 2


def test_speakers_are_told_apart_there_as_here(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    side = samples_of(CLIP.read_bytes())
    call = tmp_path / "call.wav"
    call.write_bytes(film(Sound(np.stack([side, np.roll(side, len(side) // 2)]))))
    assert main(["--server", server.url, "--speakers", str(call)]) == 0
    there = capfd.readouterr().out
    assert main(["--speakers", str(call)]) == 0
    assert capfd.readouterr().out == there
    assert {line[:3] for line in there.splitlines()} == {"A: ", "B: "}


def test_a_job_that_was_left_is_fetched_later(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    job = httpx.post(server.url + URL, **form(CLIP.read_bytes(), background="true"), timeout=60).json()
    assert main(["--server", server.url, "--job", job["id"]]) == 0
    assert HEARD.search(capfd.readouterr().out)
    assert main(["--server", server.url, "--job", "job_0"]) == 1
    assert "There is no such job" in capfd.readouterr().err


def test_a_server_that_is_restarted_is_waited_for(
    start_server: StartServer, capfd: pytest.CaptureFixture[str]
) -> None:
    first = start_server(module="tests.support.gated_server", pipe=subprocess.PIPE)
    port = first.address[1]
    codes: list[int] = []
    client = threading.Thread(target=lambda: codes.append(main(["--server", first.url, str(CLIP)])))
    client.start()
    wait_for_batch(first)
    first.process.kill()
    first.process.wait(60)
    start_server("--port", str(port))
    client.join(120)
    assert codes == [0]
    assert HEARD.search(capfd.readouterr().out)


class LosesTheFirst(BaseHTTPRequestHandler):
    """Takes an upload and ends the connection; answers from the second on."""

    keys: ClassVar[list[str]] = []
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.keys.append(self.headers["idempotency-key"])
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        if len(self.keys) > 1:
            self.send_response(202)
            self.send_header("content-length", "15")
            self.end_headers()
            self.wfile.write(b'{"id": "job_1"}')

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


def test_a_file_whose_reply_is_lost_is_sent_again_under_the_same_name() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), LosesTheFirst) as lossy:
        threading.Thread(target=lossy.serve_forever).start()
        try:
            with RemoteServer(f"http://127.0.0.1:{lossy.server_port}", "") as server, CLIP.open("rb") as file:
                assert server.submit("transcribe", file, {}) == "job_1"
        finally:
            lossy.shutdown()
    assert len(LosesTheFirst.keys) == 2
    assert len(set(LosesTheFirst.keys)) == 1
    assert all(CLIP.read_bytes() in body for body in LosesTheFirst.bodies)


def test_wrong_arguments(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["--job", "job_1"],
        ["--server", server.url],
        ["--server", server.url, "--job", "job_1", str(CLIP)],
        ["--server", server.url, "--align", "text.txt", str(CLIP)],
        ["--server", server.url, "--speakers", "--task", "translate", str(CLIP)],
    ):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
    assert main(["--server", "http://127.0.0.1:9", str(CLIP)]) == 1
    assert main(["--server", "no address", str(CLIP)]) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_key_is_sent(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start_server(WHISPER_API_KEY="secret")
    assert main(["--server", server.url, str(CLIP)]) == 1
    monkeypatch.setenv("WHISPER_API_KEY", "secret")
    assert main(["--server", server.url, str(CLIP)]) == 0
    assert HEARD.search(capfd.readouterr().out)
