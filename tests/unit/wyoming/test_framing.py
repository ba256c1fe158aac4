"""Events of the Wyoming protocol, whole and broken."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wyoming.event import Event

from tests.support.growth import check_linear
from tests.support.peak_memory import bounded_growth
from whisper_server.wyoming.framing import (
    MAX_DATA_BYTES,
    MAX_LINE_BYTES,
    MAX_PAYLOAD_BYTES,
    BadEvent,
    read_event,
)


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_data_and_payload_follow_the_line() -> None:
    data = b'{"rate": 16000}'
    line = json.dumps(
        {"type": "audio-chunk", "data": {"width": 2}, "data_length": len(data), "payload_length": 4}
    )
    reader = reader_of(line.encode() + b"\n" + data + b"\x01\x00\x02\x00" + b'{"type": "audio-stop"}\n')
    assert await read_event(reader) == Event("audio-chunk", {"width": 2, "rate": 16000}, b"\x01\x00\x02\x00")
    assert await read_event(reader) == Event("audio-stop", {}, None)
    assert await read_event(reader) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b"{}\n",
        b'{"type": 3}\n',
        b'{"type": "a", "data": []}\n',
        b'{"type": "a", "data": [1]}\n',
        b'{"type": "a", "data_length": 2}\n[]',
        b'{"type": "a", "data_length": -1}\n',
        b'{"type": "a", "data_length": 1.5}\n',
        f'{{"type": "a", "data_length": {MAX_DATA_BYTES + 1}}}\n'.encode(),
        f'{{"type": "a", "payload_length": {MAX_PAYLOAD_BYTES + 1}}}\n'.encode(),
        b'{"type": "' + b"a" * MAX_LINE_BYTES + b'"}\n',
        b"[" * 30_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_what_is_no_event_is_refused(data: bytes) -> None:
    if data == b'{"type": "a", "data": []}\n':  # empty: as if absent
        assert await read_event(reader_of(data)) == Event("a", {}, None)
        return
    with pytest.raises(BadEvent):
        await read_event(reader_of(data))


@pytest.mark.parametrize(
    "data",
    [b"", b'{"type": "a"', b'{"type": "a", "data_length": 9}\n{}', b'{"type": "a", "payload_length": 9}\n1'],
)
async def test_a_connection_that_breaks_off_has_ended(data: bytes) -> None:
    assert await read_event(reader_of(data)) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_the_end_or_refused(data: bytes) -> None:
    async def read() -> None:
        try:
            event = await read_event(reader_of(data))
        except BadEvent:
            return
        assert event is None or isinstance(event.type, str)

    asyncio.run(read())


SHAPES: dict[str, Callable[[int], bytes]] = {
    "events": lambda n: b'{"type": "a"}\n' * (n // 14),
    "events with data": lambda n: b'{"type": "a", "data_length": 2}\n{}' * (n // 34),
    "lines without end": lambda n: b"a" * n,
    "values": lambda n: data_event(b'{"a": [' + b"0," * (n // 2) + b"0]}"),
    "brackets": lambda n: data_event(b'{"a": ' + b"[" * n + b"}"),
    "a text of escapes": lambda n: data_event(b'{"a": "' + b'\\"' * (n // 2) + b'"}'),
    "a text that never ends": lambda n: data_event(b'{"a": "' + b"\\u0061" * (n // 6)),
    "digits": lambda n: data_event(b'{"a": ' + b"9" * n + b"}"),
    "names": lambda n: data_event(b"{" + b",".join(b'"%d":1' % i for i in range(n // 8)) + b"}"),
    "white space": lambda n: data_event(b" " * n + b"{}"),
}


def data_event(data: bytes) -> bytes:
    return b'{"type": "a", "data_length": %d}\n' % len(data) + data


def read_all(data: bytes, chunk_bytes: int = 1024) -> Callable[[], object]:
    async def read() -> None:
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        for first in range(0, len(data), chunk_bytes):
            reader.feed_data(data[first : first + chunk_bytes])
        reader.feed_eof()
        with contextlib.suppress(BadEvent):
            while await read_event(reader) is not None:
                pass

    return lambda: asyncio.run(read())


@pytest.mark.parametrize("shape", SHAPES)
def test_events_are_read_in_time_that_grows_with_them(shape: str) -> None:
    check_linear(lambda size: read_all(SHAPES[shape](size)), 1 << 14, MAX_DATA_BYTES // 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_event_takes_a_bounded_multiple_of_its_size(shape: str) -> None:
    work = read_all(SHAPES[shape](MAX_DATA_BYTES // 2))
    with bounded_growth(30):
        work()
