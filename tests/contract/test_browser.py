"""A real browser, with pages of every kind of origin that can be had: who may use the server, who is told."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from tests.conftest import NANO, Sample, Server, StartServer
from tests.contract.clients import KEY, NANO_NAME, wav_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

TIMEOUT_S = 120  # until a page has told what became of it: a bound, not a wait

# What a page does: `ask` a server for a transcript of a file, or of what it records, and tell the test.
SCRIPT = """
const tell = (value) => fetch("%(own)s/told", {method: "POST", mode: "no-cors", body: JSON.stringify(value)});
const ask = async (audio) => {
  const form = new FormData();
  form.append("file", audio, "speech");
  form.append("model", "whisper-1");
  try {
    const request = {method: "POST", body: form, headers: %(headers)s};
    const reply = await fetch("%(server)s/v1/audio/transcriptions", request);
    const seen = {model: reply.headers.get("x-whisper-model"), id: reply.headers.get("x-request-id")};
    await tell({origin: self.origin, status: reply.status, ...seen, reply: await reply.json()});
  } catch (error) {
    await tell({origin: self.origin, error: String(error)});
  }
};
const record = async () => {
  const recorder = new MediaRecorder(await navigator.mediaDevices.getUserMedia({audio: true}));
  const parts = [];
  recorder.ondataavailable = ({data}) => parts.push(data);
  recorder.onstop = () => ask(new Blob(parts, {type: recorder.mimeType}));
  recorder.start();
  setTimeout(() => recorder.stop(), 3000);
};
const speech = () => Uint8Array.from(atob("%(speech)s"), (c) => c.charCodeAt(0));
"""
ASK = "ask(new Blob([speech()]));"
RECORD = "record().catch((error) => tell({error: String(error)}));"


class Pages:
    """Serves pages of an origin of its own, and hears what their scripts have to tell."""

    def __init__(self) -> None:
        self.told: Queue[dict[str, Any]] = Queue()
        self.pages: dict[str, str] = {}
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pages.pages.get(self.path, "").encode()
                self.send_response(200 if body else 404)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(204)
                self.end_headers()
                pages.told.put(json.loads(body))

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, server: Server, speech: Sample, work: str, headers: dict[str, str] | None = None) -> str:
        """The script of a page that does `work` with a server."""
        values = {
            "own": self.url,
            "server": server.url,
            "speech": base64.b64encode(speech.data).decode(),
            "headers": json.dumps(headers or {}),
        }
        return SCRIPT % values + work


@pytest.fixture
def pages() -> Iterator[Pages]:
    opened = Pages()
    thread = Thread(target=opened.server.serve_forever)
    thread.start()
    yield opened
    opened.server.shutdown()
    thread.join()
    opened.server.server_close()


@contextmanager
def browser(folder: Path, url: str, *flags: str) -> Iterator[None]:
    """Show a page in a headless browser with a profile of its own."""
    assert CHROMIUM is not None
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run as root otherwise
    command = [
        *(CHROMIUM, "--headless=new", f"--user-data-dir={folder / 'profile'}", *sandbox, "--disable-gpu"),
        *(
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ),
        *("--disable-dev-shm-usage", *flags, url),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def shown(folder: Path, pages: Pages, url: str, *flags: str) -> dict[str, Any]:
    """Show a page; return what its script told."""
    with browser(folder, url, *flags):
        return pages.told.get(timeout=TIMEOUT_S)


def html(script: str) -> str:
    return f"<!doctype html><title>test</title><script>{script}</script>"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "app.localhost"])
def test_a_page_of_a_development_server(
    nano: Server, pages: Pages, speech: Sample, tmp_path: Path, host: str
) -> None:
    pages.pages["/"] = html(pages.script(nano, speech, ASK))
    told = shown(tmp_path, pages, f"http://{host}:{pages.port}/")
    assert told["origin"] == f"http://{host}:{pages.port}"
    assert (told["status"], told["reply"]["text"]) == (200, speech.text)
    assert told["model"] == NANO_NAME
    assert told["id"].startswith("req_")


def test_a_page_sends_its_key(
    start_contract_server: StartServer, pages: Pages, speech: Sample, tmp_path: Path
) -> None:
    server = start_contract_server(WHISPER_API_KEY=KEY)
    pages.pages["/"] = html(pages.script(server, speech, ASK, {"Authorization": f"Bearer {KEY}"}))
    assert shown(tmp_path, pages, pages.url)["status"] == 200


def test_a_recording_of_a_page(nano: Server, pages: Pages, speech: Sample, tmp_path: Path) -> None:
    sound = tmp_path / "speech.wav"
    sound.write_bytes(wav_of(speech))
    pages.pages["/"] = html(pages.script(nano, speech, RECORD))
    microphone = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    told = shown(tmp_path, pages, pages.url, *microphone, f"--use-file-for-fake-audio-capture={sound}")
    assert told["status"] == 200, told
    assert told["reply"]["usage"]["seconds"] in {3, 4}
    assert told["reply"]["text"]


REFUSED = "TypeError: Failed to fetch"  # all that a script is told; the log says more


def refused_and_then_let_in(
    start: StartServer, pages: Pages, folder: Path, show: Any, origin: str, pattern: str
) -> None:
    """A page is refused by default, which the log says; with the pattern in ALLOWED_ORIGINS it is not."""
    nano = ("--model", str(NANO))
    closed = start(*nano)
    told = show(closed)
    assert told == {"origin": origin, "error": REFUSED}
    closed.stop()
    assert [line for line in closed.lines if f"web pages of '{origin}' were refused" in line]
    opened = start(*nano, ALLOWED_ORIGINS=f"default,{pattern}")
    assert show(opened)["status"] == 200


def test_a_page_from_a_file(start_server: StartServer, pages: Pages, speech: Sample, tmp_path: Path) -> None:
    def show(server: Server) -> dict[str, Any]:
        page = tmp_path / "page.html"
        page.write_text(html(pages.script(server, speech, ASK)), encoding="utf-8")
        return {**shown(tmp_path, pages, page.as_uri()), "origin": "null"}

    refused_and_then_let_in(start_server, pages, tmp_path, show, "null", "null")


def test_a_sandbox(start_server: StartServer, pages: Pages, speech: Sample, tmp_path: Path) -> None:
    def show(server: Server) -> dict[str, Any]:
        pages.pages["/inside"] = html(pages.script(server, speech, ASK))
        pages.pages["/"] = '<!doctype html><iframe sandbox="allow-scripts" src="/inside"></iframe>'
        return shown(tmp_path, pages, pages.url)

    refused_and_then_let_in(start_server, pages, tmp_path, show, "null", "null")


def test_a_page_of_another_machine(
    start_server: StartServer, pages: Pages, speech: Sample, tmp_path: Path
) -> None:
    def show(server: Server) -> dict[str, Any]:
        pages.pages["/"] = html(pages.script(server, speech, ASK))
        address = "--host-resolver-rules=MAP pages.example.org 127.0.0.1"
        return shown(tmp_path, pages, f"http://pages.example.org:{pages.port}/", address)

    origin = f"http://pages.example.org:{pages.port}"
    refused_and_then_let_in(start_server, pages, tmp_path, show, origin, "http://*.example.org:*")


def test_the_docs_page_works_without_a_network(nano: Server, tmp_path: Path) -> None:
    """All that it shows comes from the server: the policy forbids anything else, and nothing is missing."""
    assert CHROMIUM is not None
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    flags = ["--headless=new", f"--user-data-dir={tmp_path}", *sandbox, "--disable-gpu", "--dump-dom"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [CHROMIUM, *flags, *offline, f"{nano.url}/docs"],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert "/v1/audio/transcriptions" in done.stdout
    assert "This server asks for no key" in done.stdout
