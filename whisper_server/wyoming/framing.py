"""Bytes of a connection -> events of the Wyoming protocol, each of bounded size.

An event is a line of JSON, then `data_length` bytes of JSON and `payload_length` bytes of anything. The
package's own reader takes whatever lengths a client writes; this one refuses what no client needs.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wyoming.event import Event

MAX_LINE_BYTES = 1 << 16  # the reader's limit, given to `asyncio.start_server`
MAX_DATA_BYTES = 1 << 18  # names and terms to expect
MAX_PAYLOAD_BYTES = 1 << 20  # half a minute of sound; Home Assistant sends 2 kB


class BadEvent(Exception):
    """What a client sends is no event, or a larger one than it needs."""


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """Return the next event, None at the end of the connection.

    Raises:
        BadEvent: it is none; nothing can be read from this connection any more.
    """
    try:
        line = await reader.readuntil(b"\n")
        head = _object(line)
        data = head.get("data") or {}
        if n_data := _length(head, "data_length", MAX_DATA_BYTES):
            data = {**_checked(data), **_object(await reader.readexactly(n_data))}
        n_payload = _length(head, "payload_length", MAX_PAYLOAD_BYTES)
        payload = await reader.readexactly(n_payload) if n_payload else None
    except asyncio.LimitOverrunError as error:
        raise BadEvent(f"An event's line has more than {MAX_LINE_BYTES} bytes.") from error
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    kind = head.get("type")
    if not isinstance(kind, str):
        raise BadEvent("An event has no type.")
    return Event(kind, _checked(data), payload)


def _object(text: bytes) -> dict[str, Any]:
    try:
        return _checked(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BadEvent("An event is not valid JSON.") from error


def _checked(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadEvent("An event is no JSON object.")
    return value


def _length(head: dict[str, Any], name: str, most: int) -> int:
    value = head.get(name) or 0
    if not isinstance(value, int) or not 0 <= value <= most:
        raise BadEvent(f"{name} is not a number from 0 to {most}.")
    return value
