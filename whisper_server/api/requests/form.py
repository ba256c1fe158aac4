"""multipart/form-data -> text fields and the bytes of one file; in memory, and bounded in every way.

Starlette's own parser puts files of more than a megabyte on disk, and an upload must leave no trace
there. The size of the whole body is the middleware's business. Knows how the official clients write lists
and objects as names of fields; must not know what a field means.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from whisper_server.api.requests.parts import PartReader
from whisper_server.core.errors import InvalidRequest

MAX_FIELD_BYTES = 1 << 16
LONG_FIELDS = {
    "text": 1 << 20,  # what is said in hours, in UTF-8
    "known_speaker_references": (8 << 20) + 1024,  # a sample of a voice, in base64
}

# Every value counts, whether the name is written `name`, `name[]` or `name[0]`.
LISTS = (
    "include",
    "keywords",
    "hotwords",
    "known_speaker_names",
    "known_speaker_references",
    "languages",
    "timestamp_granularities",
)

_FILE = "file"
_BRACKETS = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")
_SHOWN_CHARS = 80  # of a name that a client sent


@dataclass(slots=True)
class Form:
    """What a form holds."""

    fields: dict[str, list[str]] = field(default_factory=dict)  # every value of a name, in order
    file: bytearray | None = None  # the part named "file", with or without a file name


async def read_form(content_type: str, chunks: AsyncIterable[bytes]) -> Form:
    """Parse a form while it comes in.

    Raises:
        InvalidRequest: it is malformed, breaks off, has too many parts or a field that is too long.
    """
    reader = _Reader()
    try:
        parser = MultipartParser(_boundary(content_type), reader.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The form cannot be read: {error}.") from error
    if reader.is_in_part:
        raise InvalidRequest("The form breaks off before the end of its last part.")
    return reader.form


def from_form(fields: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return name -> text, list of texts, or object; of a repeated text the last one counts.

    An object comes as `name[key]`, one field per key; it wins over a plain `name` beside it.
    """
    gathered: dict[str, Any] = {}
    for written, values in fields.items():
        name, key = split_name(written)
        if name in LISTS:
            gathered.setdefault(name, []).extend(values)
        elif key:
            if not isinstance(gathered.get(name), dict):
                gathered[name] = {}
            gathered[name][key] = values[-1]
        elif not isinstance(gathered.get(name), dict):
            gathered[name] = values[-1]
    return gathered


def split_name(written: str) -> tuple[str, str]:
    """Return the name and what stands in brackets after it, empty where there are none."""
    found = _BRACKETS.fullmatch(written)
    return (found[1], found[2]) if found else (written, "")


def _boundary(content_type: str) -> bytes:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest("The form's content type names no boundary. Let the HTTP client set the header.")
    return boundary


class _Reader(PartReader):
    """Collects parts; the parser calls it. File parts of other names are counted and forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.form = Form()
        self._name = ""
        self._data: bytearray | None = None  # None: a file of another name
        self._max_bytes: int | None = None

    def begin_data(self, options: Mapping[bytes, bytes]) -> None:
        if b"name" not in options:
            raise InvalidRequest("The form has a part without a name.")
        self._name = options[b"name"].decode("utf-8", "replace")
        is_file = self._name == _FILE
        if is_file and self.form.file is not None:
            raise InvalidRequest("The form has more than one file. Send one per request.", param=_FILE)
        self._data = bytearray() if is_file or b"filename" not in options else None
        self._max_bytes = None if is_file else LONG_FIELDS.get(split_name(self._name)[0], MAX_FIELD_BYTES)

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._data is None:
            return
        self._data += memoryview(data)[start:end]
        if self._max_bytes is not None and len(self._data) > self._max_bytes:
            raise InvalidRequest(
                f"The field is longer than {self._max_bytes} bytes.",
                param=split_name(self._name)[0][:_SHOWN_CHARS],
            )

    def end_data(self) -> None:
        if self._data is None:
            return
        if self._name == _FILE:
            self.form.file = self._data
        else:
            self.form.fields.setdefault(self._name, []).append(self._data.decode("utf-8", "replace"))
