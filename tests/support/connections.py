"""Connections of a server without a network: a clock and transports of the test's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from whisper_server.api.min_rate import TransferTimeout
from whisper_server.api.server.protocol import ConnectionLimits, TimeoutProtocol
from whisper_server.api.server.turns import Turns

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Limited(TimeoutProtocol):
    turns = Turns()
    limits = ConnectionLimits(
        TransferTimeout(stall_s=60, min_bytes_per_s=1000), headers_s=20, keep_alive_s=75, connections=3
    )


class Transport(asyncio.Transport):
    """A connection whose client takes what the test says."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.left_bytes = 0
        self.high: int | None = None
        self.is_aborted = False
        self.is_closed = False
        self.is_ended = False
        self.is_paused = False
        self.written = b""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.left_bytes

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        """Note it: nothing comes but what the test sends."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """See above."""
        self.is_paused = False

    def write_eof(self) -> None:
        self.is_ended = True

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted


class Clock:
    """A loop's clock, moved by hand; tasks run on the real loop."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now_s

    def create_task(self, work: Any, **options: Any) -> Any:
        return asyncio.get_running_loop().create_task(work, **options)

    def call_soon(self, callback: Any, *args: Any) -> Any:
        return asyncio.get_running_loop().call_soon(callback, *args)

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> Any:
        timer = (self.now_s + delay_s, lambda: callback(*args))
        self.timers.append(timer)
        timers = self.timers

        class Handle:
            def cancel(self) -> None:
                if timer in timers:
                    timers.remove(timer)

        return Handle()

    def move_to(self, now_s: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= now_s]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now_s = first[0]
            first[1]()
        self.now_s = now_s


class House:
    """A server's connections, all to one application."""

    def __init__(self, **limits: Any) -> None:
        """Take what is not as in `Limited`."""

        class Own(Limited):
            turns = Turns()

        Own.limits = replace(Limited.limits, **limits)
        self.protocol_class = Own
        self.clock = Clock()
        self.state = ServerState()
        self.asked = 0
        self.outcomes: list[Any] = []
        self.may_reply = asyncio.Event()
        self.may_reply.set()
        self._config = uvicorn.Config(
            self._app, http=Limited, ws="none", lifespan="off", interface="asgi3", log_config=None
        )

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        if not self.may_reply.is_set():
            self.outcomes.append((await receive())["type"])
        await self.may_reply.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def connect(self) -> tuple[Limited, Transport]:
        loop: Any = self.clock
        protocol, transport = self.protocol_class(self._config, self.state, {}, loop), Transport()
        protocol.connection_made(transport)
        return protocol, transport

    async def settle(self) -> None:
        """Let requests come to where they wait."""
        for _ in range(20):
            await asyncio.sleep(0)
