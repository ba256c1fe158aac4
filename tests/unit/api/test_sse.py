"""Events on the wire, and a response that sends them while they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.errors import error_event
from whisper_server.api.replies import sse
from whisper_server.core.errors import EngineFailure

SCOPE: dict[str, Any] = {"type": "http"}


@given(st.text())
def test_an_event_is_one_line_of_json(text: str) -> None:
    frame = sse.event({"type": "x", "delta": text}).decode()
    assert frame.startswith("event: x\ndata: ")
    assert frame.endswith("\n\n")
    assert len(frame.splitlines()) == 3
    assert json.loads(frame.removeprefix("event: x\ndata: "))["delta"] == text


def test_a_lone_surrogate_does_not_end_the_stream() -> None:
    assert sse.event({"delta": "\ud800"}) == b'data: {"delta":"?"}\n\n'


def test_an_error_is_an_event_with_the_object_of_a_reply() -> None:
    frame = error_event(EngineFailure("bad\u2028line"))
    assert json.loads(frame.removeprefix(b"event: error\ndata: ")) == {
        "type": "error",
        "error": {"message": "bad\u2028line", "type": "server_error", "param": None, "code": None},
    }
    assert len(frame.decode().splitlines()) == 3


class Client:
    """Takes what is sent; leaves when told to."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.taken: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.taken.append(message)

    @property
    def parts(self) -> list[bytes]:
        return [message["body"] for message in self.taken if message["type"] == "http.response.body"]


async def test_frames_go_out_one_by_one_and_then_the_end() -> None:
    client = Client()
    asked: list[int] = []

    async def frames() -> AsyncGenerator[bytes, None]:
        for number in range(3):
            # Nothing is made before what was made is taken.
            assert len(client.parts) == number
            asked.append(number)
            yield b"%d" % number

    await sse.EventStream(frames())(SCOPE, client.receive, client.send)
    assert client.parts == [b"0", b"1", b"2", b""]
    start = client.taken[0]
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in dict(start["headers"])
    assert [message.get("more_body") for message in client.taken[1:]] == [True, True, True, False]


async def test_an_error_before_the_first_frame_travels_up_unanswered() -> None:
    client = Client()

    async def frames() -> AsyncGenerator[bytes, None]:
        raise EngineFailure("broken")
        yield b""

    with pytest.raises(EngineFailure):
        await sse.EventStream(frames())(SCOPE, client.receive, client.send)
    assert client.taken == []


async def test_long_gaps_are_filled_with_comments() -> None:
    client = Client()
    kept_alive = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        await client.send(message)
        if message.get("body") == sse.KEEP_ALIVE:
            kept_alive.set()

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await kept_alive.wait()
        yield b"second"

    await sse.EventStream(frames(), keep_alive_s=0.001)(SCOPE, client.receive, send)
    parts = client.parts
    assert parts[0] == b"first"
    assert parts[-2:] == [b"second", b""]
    assert set(parts[1:-2]) == {b": keep-alive\n\n"}


@pytest.mark.parametrize("frames_before", [0, 1])
async def test_a_client_that_leaves_ends_the_work(frames_before: int) -> None:
    client = Client()
    ended: list[str] = []

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(frames_before):
                yield b"x"
            client.left.set()
            await asyncio.Event().wait()
        finally:
            ended.append("closed")

    with pytest.raises(ClientDisconnected):
        await sse.EventStream(frames())(SCOPE, client.receive, client.send)
    assert ended == ["closed"]
    assert client.parts == [b"x"] * frames_before


async def test_a_first_frame_that_takes_long_is_waited_for_with_comments() -> None:
    client = Client()
    kept_alive = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        await client.send(message)
        if message.get("body") == sse.KEEP_ALIVE:
            kept_alive.set()

    async def frames() -> AsyncGenerator[bytes, None]:
        await kept_alive.wait()
        yield b"first"

    await sse.EventStream(frames(), keep_alive_s=0.001)(SCOPE, client.receive, send)
    assert client.taken[0]["status"] == 200
    assert [message["type"] for message in client.taken].count("http.response.start") == 1
    assert client.parts[-2:] == [b"first", b""]


def test_an_event_has_its_type_as_its_name() -> None:
    assert sse.event({"type": "a.b", "x": 1}) == b'event: a.b\ndata: {"type":"a.b","x":1}\n\n'
    assert sse.event({"x": 1}) == b'data: {"x":1}\n\n'
