"""Bytes of a JSON body -> its value, in linear time and bounded memory, whatever the bytes are.

A large body is one long text. One of many small values would take a hundred times its size in memory, and
the parser would hold up every other thread: it is refused before it is parsed. Long texts are not parsed at
all: a name stands in their place, and what asks for one gets its bytes. So the base64 of an upload never
becomes text, which takes up to four bytes a character, and a text that is not asked for is never copied.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.validators import MAX_TEXT_CHARS, without_surrogates

MAX_VALUES = 10_000
LONG_BYTES = 1 << 16  # a text that is longer is left where it is
MAX_TEXT_BYTES = 1 << 20  # of one that becomes text after all
_ESCAPE_BYTES = 12  # of a character beyond the first 65,536, as two surrogates
LONGER_TEXTS = {  # bytes
    "known_speaker_references": (8 << 20) + 1024,  # base64 of sound
    "text": _ESCAPE_BYTES * MAX_TEXT_CHARS,  # what is to be timed, in any way of writing it
}
_CHUNK_BYTES = 1 << 16  # other threads run between two chunks
_MARKS = (b",", b"[", b"{")  # one of them stands before every value, or before its name
_QUOTES_PER_VALUE = 4  # those of its name and its own
_UTF8 = ("utf-8", "utf-8-sig")
_CONTROL = re.compile(rb"[\x00-\x1f]")

Span = tuple[int, int]  # first byte of a text, and the byte behind its last one


@dataclass(frozen=True, slots=True)
class Json:
    """The value of a body. In place of each long text it has a name, which no client can know."""

    value: Any
    _body: bytes | bytearray = b""
    _long: dict[str, Span] = field(default_factory=dict)

    def content(self, text: str) -> bytes | str:
        """Return a text of the value, a long one as the bytes that it has in the body.

        Raises:
            InvalidRequest: it is long, and a backslash in it escapes nothing.
        """
        if text not in self._long:
            return text
        start, end = self._long[text]
        raw = bytes(memoryview(self._body)[start:end])
        return raw if b"\\" not in raw else _parsed_text(raw)

    def restored(self, text: str, param: str) -> str:
        """Return a text of the value, a long one as the text that its name stands for.

        Raises:
            InvalidRequest: it is longer than it may be; `param` is what the client calls it.
        """
        if text not in self._long:
            return text
        start, end = self._long[text]
        limit = LONGER_TEXTS.get(param, MAX_TEXT_BYTES)
        if end - start > limit:
            raise InvalidRequest(f"The field is longer than {limit} bytes.", param=param)
        restored: str = without_surrogates(_parsed_text(bytes(memoryview(self._body)[start:end])))
        return restored

    def fields(self, names: Iterable[str]) -> dict[str, Any]:
        """Return these members of an object, apart from the body. Raises as `restored`."""
        if not isinstance(self.value, dict):
            return {}
        return {name: self._whole(self.value[name], name) for name in names if name in self.value}

    def _whole(self, value: Any, param: str) -> Any:
        if isinstance(value, str):
            return self.restored(value, param)
        if isinstance(value, dict):
            return {self.restored(name, param): self._whole(item, param) for name, item in value.items()}
        return [self._whole(item, param) for item in value] if isinstance(value, list) else value


def parse_json(body: bytes | bytearray) -> Json:
    """Parse a body; takes long for a large one. An empty body is an empty object.

    Raises:
        InvalidRequest: it is no JSON, or has too many values.
    """
    if not body or body.isspace():
        return Json({})
    try:
        encoding = json.detect_encoding(body)
        if encoding not in _UTF8:
            # In UTF-16 a quote may be half of another character.
            body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
            encoding = "utf-8"
        found = outline(body, MAX_VALUES)
        if found.is_too_much:
            raise InvalidRequest(f"The request body has more than {MAX_VALUES} values.")
        for span in found.long_texts:
            _check_text(body, span)
        mark = os.urandom(8).hex()
        long = {f"{mark}-{number}": span for number, span in enumerate(found.long_texts)}
        # Text, because bytes would be asked for their encoding again, and may say another one.
        short = _with_names(body, long).decode(encoding, "surrogatepass")
        return Json(without_surrogates(json.loads(short)), body, long)
    except (ValueError, RecursionError) as error:
        raise _no_json(error) from error


@dataclass(frozen=True, slots=True)
class Outline:
    """What a body has, as far as quotes and marks tell."""

    n_marks: int  # outside texts
    is_too_much: bool  # more values than allowed; what follows was not looked at
    long_texts: Sequence[Span]


def outline(body: bytes | bytearray, limit: int, chunk_bytes: int = _CHUNK_BYTES) -> Outline:
    """Return the outline of JSON in UTF-8; stops soon after `limit` marks.

    What is no JSON is counted as a parser reads it, up to where that gives up.
    """
    n_marks = n_quotes = start = 0  # start: of the text that is open
    long_texts: list[Span] = []
    is_text = False  # at the beginning of the chunk
    is_escaped = False  # its first byte
    for first in range(0, len(body), chunk_bytes):
        chunk = body[first : first + chunk_bytes]
        if is_escaped:
            chunk = b" " + chunk[1:]
        # A run of backslashes is pairs, and one that escapes what follows where their number is odd. What
        # takes the place of an escape is as long as it is: positions stay.
        chunk = chunk.replace(b"\\\\", b"  ")
        is_escaped = chunk.endswith(b"\\")
        pieces = chunk.replace(b'\\"', b"  ").split(b'"')
        outside = b" ".join(pieces[is_text::2])
        n_marks += sum(outside.count(mark) for mark in _MARKS)
        n_quotes += len(pieces) - 1
        if n_marks > limit or n_quotes > _QUOTES_PER_VALUE * (limit + 1):
            return Outline(n_marks, is_too_much=True, long_texts=())
        at = first - 1  # of a quote
        for piece in pieces[:-1]:
            at += len(piece) + 1
            if is_text and at - start > LONG_BYTES:
                long_texts.append((start, at))
            start = at + 1
            is_text = not is_text
    return Outline(n_marks, is_too_much=False, long_texts=long_texts)


def _with_names(body: bytes | bytearray, long: dict[str, Span]) -> bytes:
    """Return the body with names in place of its long texts."""
    parts: list[bytes | bytearray] = []
    done = 0
    for name, (start, end) in long.items():
        parts += body[done:start], name.encode()
        done = end
    return b"".join([*parts, body[done:]])


def _check_text(body: bytes | bytearray, span: Span) -> None:
    """Check what the parser would check of a text that it does not see, but for its escapes.

    Raises:
        ValueError: it is no UTF-8, or has control characters.
    """
    with memoryview(body) as whole:
        decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        for first in range(*span, _CHUNK_BYTES):
            last = min(first + _CHUNK_BYTES, span[1])
            chunk = bytes(whole[first:last])
            if not chunk.isascii() or decoder.getstate()[0]:
                decoder.decode(chunk, final=last == span[1])
            if control := _CONTROL.search(chunk):
                raise ValueError(f"Invalid control character at: byte {first + control.start()}")


def _parsed_text(raw: bytes) -> str:
    try:
        text: str = json.loads('"' + raw.decode("utf-8", "surrogatepass") + '"')
    except ValueError as error:
        raise _no_json(error) from error
    return text


def _no_json(error: Exception) -> InvalidRequest:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return InvalidRequest(f"The request body is not valid JSON: {reason}.")
