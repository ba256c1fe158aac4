"""A client below HTTP: sees every message of a reply as it is sent, and may leave at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx


class StreamingClient:
    """Sends one request to an application and takes its reply message by message."""

    def __init__(self, request: httpx.Request, on_part: Callable[[bytes], None] = lambda _: None) -> None:
        self._request = request
        self._on_part = on_part
        self._received = [{"type": "http.request", "body": request.read(), "more_body": False}]
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def run(self, app: Any) -> None:
        path, _, query = self._request.url.raw_path.partition(b"?")
        scope = {
            "type": "http",
            "method": self._request.method,
            "path": path.decode(),
            "query_string": query,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
        }
        await app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._received:
            return self._received.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and message["body"]:
            self._on_part(message["body"])

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def parts(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:] if message["body"]]

    @property
    def is_complete(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", False)


class Uploading(StreamingClient):
    """Sends what it has, one part after the other, as it is told to."""

    def __init__(self, request: httpx.Request) -> None:
        super().__init__(request)
        self.parts_to_send: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._receive = self.parts_to_send.get  # type: ignore[assignment]

    def say(self, body: bytes) -> None:
        self.parts_to_send.put_nowait({"type": "http.request", "body": body, "more_body": True})

    def leave(self) -> None:
        self.parts_to_send.put_nowait({"type": "http.disconnect"})


def events_of(body: bytes | str) -> list[dict[str, Any]]:
    """Return the events of a stream; comments and `[DONE]` are left out."""
    text = body.decode() if isinstance(body, bytes) else body
    assert text.endswith("\n\n")
    frames = [frame for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    found = []
    for frame in frames:
        *names, data = frame.split("\n")
        assert data.startswith("data: "), frame
        if data != "data: [DONE]":
            event: dict[str, Any] = json.loads(data.removeprefix("data: "))
            # Chunks of a chat have no type, and no name either.
            assert names == ([f"event: {event['type']}"] if "type" in event else []), frame
            found.append(event)
    return found
