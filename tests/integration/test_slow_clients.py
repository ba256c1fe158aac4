"""Clients that do not read what they asked for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn

from whisper_server.api.allowance import Patience
from whisper_server.api.gone import ClientGone
from whisper_server.api.protocol import Limits, PatientProtocol
from whisper_server.api.sse import EventStream


class Hasty(PatientProtocol):
    """Does not wait a minute."""

    limits = Limits(Patience(stall_s=0.05, min_bytes_per_s=1000), head_s=60, keep_alive_s=60, connections=9)


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    """Its stream ends, its connection is gone, and no more was made for it than the socket holds."""
    ended: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()
    made: list[int] = []

    async def frames() -> AsyncGenerator[bytes, None]:
        while True:
            made.append(1 << 20)
            yield b"x" * (1 << 20)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()  # the request, which has no body
        try:
            await EventStream(frames())(scope, receive, send)
        except ClientGone as error:
            ended.set_result(type(error))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve(sockets=[listening]))
        client = socket.create_connection(listening.getsockname())
        with client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.wait_for(ended, 60) is ClientGone
            assert not server.server_state.connections
        server.should_exit = True
        await serving
    assert sum(made) < 64 << 20  # what the two kernels' buffers hold, and one more
