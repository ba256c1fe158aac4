"""Bytes of a JSON body -> its value, in linear time and bounded memory, whatever the bytes are.

A large body is one long text. One of many small values would take a hundred times its size in memory, and
the parser would hold up every other thread: it is refused before it is parsed.
"""

from __future__ import annotations

import json
from typing import Any

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.validators import without_surrogates

MAX_VALUES = 10_000
_CHUNK_BYTES = 1 << 16  # other threads run between two chunks
_MARKS = (b",", b"[", b"{")  # one of them stands before every value, or before its name
_UTF8 = ("utf-8", "utf-8-sig")


def parse_json(body: bytes) -> Any:
    """Parse a body; takes long for a large one. An empty body is an empty object.

    Raises:
        InvalidRequest: it is no JSON, or has too many values.
    """
    if not body or body.isspace():
        return {}
    try:
        encoding = json.detect_encoding(body)
        text = None if encoding in _UTF8 else body.decode(encoding, "surrogatepass")
        # In UTF-16 a quote may be half of another character.
        utf8 = body if text is None else text.encode("utf-8", "surrogatepass")
        if n_marks(utf8, MAX_VALUES) > MAX_VALUES:
            raise InvalidRequest(f"The request body has more than {MAX_VALUES} values.")
        del utf8
        # Text, because bytes would be asked for their encoding again, and may say another one.
        value = json.loads(body.decode(encoding, "surrogatepass") if text is None else text)
        return without_surrogates(value)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"The request body is not valid JSON: {reason}.") from error


def n_marks(body: bytes, limit: int, chunk_bytes: int = _CHUNK_BYTES) -> int:
    """Return how many marks JSON in UTF-8 has outside its texts; stops soon after `limit`.

    What is no JSON is counted as a parser reads it, up to where that gives up.
    """
    found = 0
    is_text = False  # at the beginning of the chunk
    is_escaped = False  # its first byte
    for first in range(0, len(body), chunk_bytes):
        chunk = body[first + is_escaped : first + chunk_bytes]
        # A run of backslashes is pairs, and one that escapes what follows where their number is odd.
        chunk = chunk.replace(b"\\\\", b"")
        is_escaped = chunk.endswith(b"\\")
        pieces = chunk.replace(b'\\"', b"").split(b'"')
        outside = b" ".join(pieces[is_text::2])
        found += sum(outside.count(mark) for mark in _MARKS)
        if found > limit:
            break
        is_text ^= len(pieces) % 2 == 0
    return found
