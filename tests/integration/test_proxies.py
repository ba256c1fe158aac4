"""The proxies' configurations of docs/operations.md, run by the real proxies where they are installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, Server, StartServer
from tests.support.gated_server import LIMIT_S, let_through, open_gate, wait_for_batch
from tests.support.http_requests import URL, error_of, form
from tests.support.long_audio import speak_for

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NAME = "speech.example.org"
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", OPERATIONS, re.DOTALL)
    assert found
    return found[1]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(folder: Path, server: Server) -> list[str]:
    """Write the site as it is shown, but on a socket in a folder and without a certificate."""
    site = replaced(
        re.sub(r"\n *ssl_\w+ [^;]+;", "", block("nginx")),
        ("listen 443 ssl;", f"listen unix:{folder}/socket;"),
        ("http://127.0.0.1:8089", server.url),
    )
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, site=site))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, server: Server) -> list[str]:
    site = replaced(
        block("caddy"),
        (f"{NAME} {{", f"http://{NAME} {{\n\tbind unix/{folder}/socket"),
        ("127.0.0.1:8089", server.url.removeprefix("http://")),
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@contextmanager
def proxied(command: list[str], folder: Path) -> Iterator[httpx.Client]:
    """Run a proxy; yield a client of it."""
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        proxy = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while True:
                assert proxy.poll() is None, (folder / "log").read_text()
                with socket.socket(socket.AF_UNIX) as knocking:
                    if knocking.connect_ex(str(folder / "socket")) == 0:
                        break
            transport = httpx.HTTPTransport(uds=str(folder / "socket"))
            with httpx.Client(transport=transport, base_url=f"http://{NAME}", timeout=LIMIT_S) as client:
                client.headers["authorization"] = "Bearer change-me"
                yield client
        finally:
            proxy.terminate()
            proxy.wait(LIMIT_S)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_as_the_document_shows_it(
    start_server: StartServer, tmp_path: Path, proxy: Callable[[Path, Server], list[str]]
) -> None:
    if shutil.which(proxy.__name__) is None:
        pytest.skip(f"{proxy.__name__} is not installed")
    (shown,) = re.findall(r"^(\w.*) python whisper_api_server.py$", block("behind a proxy"), re.MULTILINE)
    server = start_server(
        module="tests.support.gated_server",
        pipe=subprocess.PIPE,
        **dict(pair.split("=") for pair in shown.split()),
    )
    with proxied(proxy(tmp_path, server), tmp_path) as client:
        assert client.get("/v1/models").status_code == 200
        error_of(client.get("/v1/models", headers={"authorization": ""}), 401, code="invalid_api_key")
        reply = client.post(URL, **form(bytes(26 << 20)))  # beyond our limit, within the proxy's
        assert "26214400" in error_of(reply, 413)
        let_through(server, 1)
        with client.stream("POST", URL, **form(speak_for(240), stream="true", language="en")) as stream:
            wait_for_batch(server)
            lines = stream.iter_lines()  # kept: with it the reply would be closed
            assert next(lines) == "event: transcript.text.delta"
            wait_for_batch(server)  # the next window is held: what was read had not waited for it
            assert requests_inside(server) == 1
        while requests_inside(server):  # the client has left; the device still is held
            assert server.process.poll() is None
        open_gate(server)


def requests_inside(server: Server) -> int:
    ready = httpx.get(f"{server.url}/ready", headers={"authorization": "Bearer change-me"}, timeout=LIMIT_S)
    inside: int = ready.json()["queue"]["requests"]
    return inside
