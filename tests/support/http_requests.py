"""Requests as clients send them, and the check of an error's shape."""

from __future__ import annotations

import base64
import json
import re
import socket
from typing import Any

import httpx

URL = "/v1/audio/transcriptions"
# What the fake engine says: how much it hears is the business of voice activity detection.
HEARD = re.compile(r"heard \d+ frames")
PARTS_OF_AN_ERROR = {"message", "type", "param", "code"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(data: bytes, **fields: Any) -> dict[str, Any]:
    """Arguments of a multipart request."""
    return {"files": {"file": ("upload", data, "application/octet-stream")}, "data": fields}


def error_of(
    response: httpx.Response, status: int, *, param: str | None = None, code: str | None = None
) -> str:
    """Check that the reply is this error, in OpenAI's shape; return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == PARTS_OF_AN_ERROR
    assert (body["error"]["param"], body["error"]["code"]) == (param, code)
    kinds = {413: "server_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    assert body["error"]["type"] == kinds.get(status, "invalid_request_error")
    message: str = body["error"]["message"]
    assert message
    assert "Traceback" not in message
    return message


def upload_begun(address: tuple[str, int], size_bytes: int = 2) -> socket.socket:
    """Begin an upload of JSON and return once the server is reading it: it has asked for the body."""
    connection = socket.create_connection(address, timeout=60)
    connection.sendall(
        f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {size_bytes}\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
    return connection


def error_in(connection: socket.socket) -> tuple[str, dict[str, str]]:
    """Read until the server closes the connection; return the status line and the error."""
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    top, _, body = received.partition(b"\r\n\r\n")
    return top.split(b"\r\n")[0].decode(), json.loads(body)["error"]


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection, in whatever way."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionError:
        pass
    return received


def exchange(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send, and read until the server closes the connection: a reset would raise."""
    with socket.create_connection(address, timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
        return received


def request_headers(*lines: str) -> bytes:
    """Return the request line and the headers of a transcription."""
    return "\r\n".join([f"POST {URL} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
