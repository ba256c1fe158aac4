"""Requests as clients send them, and the check of an error's shape."""

from __future__ import annotations

import base64
import re
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
