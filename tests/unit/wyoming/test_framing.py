"""Events of the Wyoming protocol, whole and broken."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wyoming.event import Event

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
