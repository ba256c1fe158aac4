"""A server of somebody else's: hears requests, and answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Heard:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers one after the other of `answers`, the last one again and again."""

    answers: Sequence[bytes]
    port: int = 0
    heard: asyncio.Queue[Heard] = field(default_factory=asyncio.Queue)
    _n: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.heard.put_nowait(Heard(head[0], headers, body))
        writer.write(self.answers[min(self._n, len(self.answers) - 1)])
        self._n += 1
        writer.close()


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Any", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def receiving(*answers: bytes) -> AsyncIterator[Receiver]:
    found = Receiver(answers)
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found
