"""The deadline for bodies, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from whisper_server.api.disconnect import disconnected
from whisper_server.api.middleware.upload_timeout import UploadTimeoutMiddleware
from whisper_server.api.min_rate import TransferTimeout
from whisper_server.core.errors import UploadStalled

TIMEOUT = TransferTimeout(stall_s=60, min_bytes_per_s=1000)


class Client:
    """Sends parts of a body; each takes its time, on the clock that it moves."""

    def __init__(self, *parts: tuple[float, int], is_whole: bool = True) -> None:
        self.now_s = 0.0
        self._parts = list(parts)
        self._is_whole = is_whole

    def clock(self) -> float:
        return self.now_s

    async def receive(self) -> dict[str, Any]:
        if not self._parts:
            return {"type": "http.disconnect"}
        took_s, n_bytes = self._parts.pop(0)
        self.now_s += took_s
        more = bool(self._parts) or not self._is_whole
        return {"type": "http.request", "body": b"x" * n_bytes, "more_body": more}


async def nowhere(_: Any) -> None:
    raise AssertionError


async def read(client: Client, work_s: float = 0.0, limit: TransferTimeout = TIMEOUT) -> list[dict[str, Any]]:
    """Return every message that the application gets; between two it works for some time."""
    messages: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not messages or messages[-1]["type"] == "http.request":
            messages.append(await receive())
            client.now_s += work_s

    guarded = UploadTimeoutMiddleware(app, timeout=limit, clock=client.clock)
    await guarded({"type": "http"}, client.receive, nowhere)
    return messages


async def test_a_body_at_a_fair_rate_passes_however_long_it_takes() -> None:
    messages = await read(Client(*[(10, 10_000)] * 1000))
    assert sum(len(message.get("body", b"")) for message in messages) == 10_000_000
    assert messages[-1]["type"] == "http.disconnect"


async def test_a_trickle_is_ended_and_the_error_names_the_limits() -> None:
    client = Client(*[(10, 1)] * 1000)
    with pytest.raises(UploadStalled) as caught:
        await read(client)
    assert client.now_s == 70
    assert caught.value.status == 408
    for part in (
        "7 bytes",
        "60 seconds (WHISPER_STALL_TIMEOUT_S)",
        "1000 bytes per second (WHISPER_MIN_BYTES",
    ):
        assert part in caught.value.message


async def test_the_time_that_we_take_ourselves_is_not_the_clients() -> None:
    messages = await read(Client(*[(1, 1)] * 50), work_s=3600)
    assert len(messages) == 51


async def test_the_last_part_is_never_too_late() -> None:
    assert len(await read(Client((59, 1), (59, 1)))) == 3


async def test_after_the_body_one_may_wait_for_the_end_of_the_connection() -> None:
    """With what is left of a second, where the client stays for longer."""
    is_there = asyncio.Event()

    class Staying(Client):
        async def receive(self) -> dict[str, Any]:
            if not self._parts:
                is_there.set()
                await asyncio.Event().wait()
            return await super().receive()

    reading = asyncio.create_task(read(Staying((0, 1)), limit=TransferTimeout(0.001, 0)))
    await is_there.wait()
    done, _ = await asyncio.wait({reading}, timeout=0.05)
    assert not done
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_client_that_sends_nothing_is_given_up() -> None:
    async def silence() -> Any:
        await asyncio.Event().wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    guarded = UploadTimeoutMiddleware(app, timeout=TransferTimeout(0.01, 1000))
    with pytest.raises(UploadStalled):
        await guarded({"type": "http"}, silence, nowhere)


async def test_reading_on_after_that_gets_what_comes() -> None:
    client = Client((61, 1), (500, 5), (500, 0))
    read_on: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(UploadStalled):
            await receive()
        read_on.extend([await receive(), await receive()])

    guarded = UploadTimeoutMiddleware(app, timeout=TIMEOUT, clock=client.clock)
    await guarded({"type": "http"}, client.receive, nowhere)
    assert [len(message["body"]) for message in read_on] == [5, 0]


async def test_what_is_no_request_is_left_alone() -> None:
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(receive)

    client = Client()
    for kind in ("websocket", "lifespan"):
        await UploadTimeoutMiddleware(app, timeout=TIMEOUT)({"type": kind}, client.receive, nowhere)
    assert given == [client.receive] * 2


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancellation_that_comes_with_a_message_is_not_lost(steps: int) -> None:
    """The work may end at the very moment at which the body does; its reader must not hang then."""
    last: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    never: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    messages = iter([last, never])

    async def receive() -> dict[str, Any]:
        return await next(messages)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await disconnected(receive)

    guarded = UploadTimeoutMiddleware(app, timeout=TIMEOUT)
    reading = asyncio.ensure_future(guarded({"type": "http"}, receive, nowhere))
    for _ in range(6):  # until it waits
        await asyncio.sleep(0)
    last.set_result({"type": "http.request", "body": b"x", "more_body": False})
    for _ in range(steps):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading}, timeout=10)
    assert reading.cancelled()
