"""TLS in front of a server, with a throw-away certificate, for clients that refuse ws://."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

BLOCK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class TlsFront:
    """Where it listens, and the certificate to trust."""

    url: str
    certificate: Path


@contextmanager
def tls_front(server_url: str, folder: Path) -> Iterator[TlsFront]:
    """Pass connections on to a server; `openssl` makes the certificate."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ports: list[int] = []
    is_ready = threading.Event()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(_passing_on_to(server_url), "127.0.0.1", 0, ssl=context) as own:
            ports.append(own.sockets[0].getsockname()[1])
            is_ready.set()
            await stopped.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert is_ready.wait(60)
        yield TlsFront(f"https://localhost:{ports[0]}", certificate)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def _passing_on_to(
    server_url: str,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    target = urlsplit(server_url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(_copy(reader, back_writer), _copy(back_reader, writer))

    return pass_on


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # either side has left
        while data := await reader.read(BLOCK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
