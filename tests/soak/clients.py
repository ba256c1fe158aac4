"""Clients over bare sockets: every kind of request, and every moment at which a client may leave."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
import httpx

from tests.support.asgi_client import events_of
from tests.support.http_requests import HEARD, PARTS_OF_AN_ERROR, URL, b64, form


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Kind:
    """A request as bytes, and what must be true of its reply."""

    name: str
    data: bytes
    check: Callable[[Reply], None]
    may_leave: bool = False


def wire(method: str, url: str, **arguments: Any) -> bytes:
    """Return a whole request; its connection is for it alone."""
    request = httpx.Request(method, f"http://localhost{url}", **arguments)
    request.headers["connection"] = "close"
    lines = [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    return f"{method} {url} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + request.read()


def parse(raw: bytes) -> Reply:
    """Read a reply; raises where it is not whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    head, body = None, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.Response):
            head = event
        else:
            assert isinstance(event, h11.InformationalResponse), event
    assert head is not None
    headers = {name.decode(): value.decode() for name, value in head.headers}
    return Reply(head.status_code, headers, body)


def kinds(clip: bytes) -> list[Kind]:
    """Return what clients ask for: audio in every way, what is wrong, and what costs nothing."""
    said: list[str] = []

    def says(text: str) -> None:
        assert HEARD.fullmatch(text), text
        said.append(text)
        assert text == said[0]  # all clients send the same clip

    def heard(read: Callable[[Reply], str]) -> Callable[[Reply], None]:
        def check(reply: Reply) -> None:
            assert reply.status == 200, reply
            says(read(reply))

        return check

    def answers(status: int) -> Callable[[Reply], None]:
        def check(reply: Reply) -> None:
            assert reply.status == status, reply
            assert status == 200 or set(reply.json["error"]) == PARTS_OF_AN_ERROR

        return check

    def post(name: str, read: Callable[[Reply], str], url: str = URL, **arguments: Any) -> Kind:
        return Kind(name, wire("POST", url, **arguments), heard(read), may_leave=True)

    message = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": b64(clip)}}]}
    audio = [
        post("form", lambda reply: reply.json["text"], **form(clip)),
        post("json", lambda reply: reply.json["text"], json={"audio": b64(clip)}),
        post("text", lambda reply: reply.body.decode().strip(), **form(clip, response_format="text")),
        post(
            "words",
            lambda reply: " ".join(word["word"] for word in reply.json["words"]),
            **form(clip, response_format="verbose_json", **{"timestamp_granularities[]": "word"}),
        ),
        post("srt", lambda reply: reply.body.decode().split("\n")[2], **form(clip, response_format="srt")),
        post("vtt", lambda reply: reply.body.decode().split("\n")[3], **form(clip, response_format="vtt")),
        post("stream", lambda reply: events_of(reply.body)[-1]["text"], **form(clip, stream="true")),
        post("translation", lambda reply: reply.json["text"], "/v1/audio/translations", **form(clip)),
        post(
            "chat",
            lambda reply: reply.json["choices"][0]["message"]["content"],
            "/v1/chat/completions",
            json={"model": "whisper-1", "messages": [message]},
        ),
        Kind("info", wire("POST", "/debug/audio-info", **form(clip)), answers(200), may_leave=True),
    ]
    wrong = [
        Kind("no audio", wire("POST", URL, **form(b"\0" * 5000)), answers(400)),
        Kind("half a file", wire("POST", URL, **form(clip[:20])), answers(400)),
        Kind("no file", wire("POST", URL, data={"model": "whisper-1"}), answers(400)),
        Kind("no json", wire("POST", URL, json=[1, 2]), answers(400)),
        Kind("no such model", wire("POST", URL, **form(clip, model="../../etc")), answers(404)),
        Kind("no such format", wire("POST", URL, **form(clip, response_format="pdf")), answers(400)),
        Kind("no such path", wire("GET", "/v1/nothing"), answers(404)),
        Kind("no such method", wire("DELETE", "/health"), answers(405)),
        Kind("too large", wire("POST", URL, **form(b"\0" * 2_300_000)), answers(413)),
    ]
    paths = ("/health", "/ready", "/v1/models", "/metrics")
    return [*audio, *wrong, *(Kind(path, wire("GET", path), answers(200)) for path in paths)]


async def ask(address: tuple[str, int], data: bytes) -> Reply:
    """Send a request and read its reply."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        return parse(await reader.read())
    finally:
        writer.close()


async def leave(address: tuple[str, int], data: bytes, chance: random.Random) -> None:
    """Begin a request and go: in the upload, while it is at work, or in the reply; politely or not."""
    reader, writer = await asyncio.open_connection(*address)
    moment = chance.choice(("upload", "work", "reply"))
    writer.write(data[: chance.randrange(1, len(data))] if moment == "upload" else data)
    await writer.drain()
    if moment == "reply":
        await reader.read(chance.randrange(1, 200))
    elif moment == "work":
        for _ in range(chance.randrange(200)):
            await asyncio.sleep(0)  # let the others run: the server is somewhere in the middle
    if chance.random() < 0.5:  # as a process that is killed, or a cable that is cut
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort() if chance.random() < 0.5 else writer.close()
