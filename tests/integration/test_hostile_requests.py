"""Forms and headers that no client sends in good faith: raw bytes to a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server, StartServer, servers
from tests.support.audio_files import wav_bytes
from tests.support.http_requests import PARTS_OF_AN_ERROR, URL, exchange, form, request_headers

FORM = "Content-Type: multipart/form-data; boundary=x"
JSON = "Content-Type: application/json"
PART = b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
FILE = PART % (b"file", b"RIFF")
END = b"--x--\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of them: none may leave anything behind."""
    with servers(tmp_path_factory.mktemp("hostile")) as start:
        yield start("--queue-requests", "1")


@pytest.fixture(autouse=True)
def _the_next_request_is_served(server: Server) -> Iterator[None]:
    yield
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/ready").json()["queue"]["requests"] == 0
    reply = httpx.post(f"{server.url}{URL}", **form(wav_bytes(bytes(32_000))))
    assert reply.status_code == 200
    assert not any("Traceback" in line for line in server.lines)


def error_in(reply: bytes, status: int) -> dict[str, Any]:
    """Check that this is one reply, an error in OpenAI's shape; return the error."""
    top, _, body = reply.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 %d " % status), top
    assert b"content-type: application/json" in top.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == PARTS_OF_AN_ERROR
    return error


def sent(server: Server, body: bytes, *lines: str) -> bytes:
    return exchange(
        server.address, request_headers(*(lines or (FORM,)), f"Content-Length: {len(body)}"), body
    )


def test_a_hundred_thousand_parts(server: Server) -> None:
    body = FILE + PART % (b"a", b"") * 100_000 + END
    assert "more than 200 parts" in error_in(sent(server, body), 400)["message"]


def test_a_hundred_thousand_files(server: Server) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="other"; filename="a"\r\n\r\n\r\n'
    assert "more than 200 parts" in error_in(sent(server, part * 100_000 + END), 400)["message"]


def test_a_giant_field(server: Server) -> None:
    body = FILE + PART % (b"prompt", b"x" * 20_000_000) + END
    error = error_in(sent(server, body), 400)
    assert error["param"] == "prompt"
    assert "65536 bytes" in error["message"]


@pytest.mark.parametrize(
    "header",
    [
        b"content-disposition: form-data; name=" + b"n" * 5_000_000,
        b"n" * 5_000_000 + b": value",
        b"\r\n".join(b"name-%d: value" % i for i in range(100_000)),
        b"content-disposition: form-data" + b'; name="a"' * 100_000,
    ],
    ids=["value", "name", "many", "parameters"],
)
def test_giant_headers_of_a_part(server: Server, header: bytes) -> None:
    error = error_in(sent(server, b"--x\r\n" + header + b"\r\n\r\n\r\n" + END), 400)
    assert error["message"].startswith("The form cannot be read: Maximum header ")


@pytest.mark.parametrize("junk", [b"j" * 5_000_000, b"--" * 2_000_000, b"-" * 10, b"\0"])
def test_junk_before_the_boundary(server: Server, junk: bytes) -> None:
    error = error_in(sent(server, junk + b"\r\n" + FILE + END, FORM, "Connection: close"), 400)
    assert error["message"].startswith("The form cannot be read: ")


def test_boundaries_that_are_almost_there(server: Server) -> None:
    """They are a part of the file, and cost the parser more than any other."""
    audio = wav_bytes(b"\r\n--" * 400_000)
    assert httpx.post(f"{server.url}{URL}", **form(audio)).status_code == 200


@pytest.mark.parametrize(("n", "message"), [(5_000, "has no audio"), (50_000, "chunks that are too small")])
def test_chunks_of_one_byte(server: Server, n: int, message: str) -> None:
    chunks = b"1\r\n \r\n" * n + b"0\r\n\r\n"
    reply = exchange(
        server.address, request_headers(JSON, "Transfer-Encoding: chunked", "Connection: close"), chunks
    )
    assert message in error_in(reply, 400)["message"]


@pytest.mark.parametrize(
    "lines",
    [
        ("A: " + "a" * 1_000_000,),
        ("A" * 1_000_000 + ": a",),
        tuple(f"A{i}: a" for i in range(100_000)),
        ("Content-Length: -1",),
        ("Content-Length: 1, 2",),
        ("Content-Length: 1", "Content-Length: 2"),
        ("Content-Length: " + "9" * 5000,),
        ("Transfer-Encoding: gzip, chunked",),
        (": a",),
    ],
    ids=["value", "name", "many", "negative", "two in one", "two", "digits", "coding", "nameless"],
)
def test_heads_that_are_wrong(server: Server, lines: tuple[str, ...]) -> None:
    error_in(exchange(server.address, request_headers(JSON, *lines)), 400)


@pytest.mark.parametrize("size", [b"nonsense", b"-1", b"f" * 30, b"0x10"])
def test_chunks_that_are_wrong(server: Server, size: bytes) -> None:
    """In a request that is at work, and in one that has its answer already."""
    for lines in ((JSON, "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked",)):
        reply = exchange(server.address, request_headers(*lines), b"1\r\n{\r\n", size + b"\r\n")
        error_in(reply, 400)


@pytest.mark.parametrize("path", [URL, "/v1/audio/translations", "/v1/chat/completions"])
@pytest.mark.parametrize("size", [400_000, 30_000_000])
def test_json_that_was_made_to_be_slow(server: Server, path: str, size: int) -> None:
    """Very many commas, then a text of escaped quotes that never ends."""
    body = b'{"audio": [' + b'"",' * 9_000 + b'"' + b'\\"' * (size // 2)
    reply = httpx.post(f"{server.url}{path}", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert "not valid JSON: Unterminated string" in reply.json()["error"]["message"]


def test_a_server_that_reads_slow_json_ends_when_it_is_told_to(start_server: StartServer) -> None:
    server = start_server()
    body = b"," * 10_001 + b'"' + b'\\"' * 200_000
    for path in (URL, "/v1/chat/completions"):
        reply = httpx.post(f"{server.url}{path}", content=body, headers={"content-type": "application/json"})
        assert "more than 10000 values" in reply.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert server.stop() == 0
