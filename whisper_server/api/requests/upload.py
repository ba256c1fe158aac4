"""The bytes of a request, of either encoding -> the audio and the fields that count, in memory."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect

from whisper_server.api.deps import Admitted
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.requests.bodies import (
    AlignmentFields,
    DiarizationFields,
    InferenceFields,
    TranscriptionFields,
)
from whisper_server.api.requests.form import from_form, read_form
from whisper_server.api.requests.json_text import parse_json
from whisper_server.core.chat_audio import data_of
from whisper_server.core.errors import InvalidRequest, UnsupportedEncoding
from whisper_server.core.validators import OPENROUTER_FIELD, decode_base64, find_audio

FILE_URL = "file_url"

# Those of a translation and of /debug/audio-info are among them.
_FIELDS = frozenset().union(
    *(
        kind.model_fields
        for kind in (TranscriptionFields, InferenceFields, AlignmentFields, DiarizationFields)
    )
)


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent, of either encoding."""

    data: bytes
    fields: Mapping[str, Any]  # those that count, as they came; unchecked
    param: str  # what the client calls the audio: "file", "audio", "input_audio" or "messages"

    @property
    def held_bytes(self) -> int:
        """What it takes up in memory."""
        return len(self.data) + _size_of(self.fields)

    @property
    def is_json(self) -> bool:
        """Whether it came as the desktop app's JSON, whose replies have fields of their own."""
        return self.param == "audio"


async def read_upload(admitted: Admitted, *, takes_url: bool = False) -> Upload:
    """Read the body into memory, whatever its encoding, and keep what counts of it.

    With `takes_url` a `file_url` may stand for the audio, whose bytes are empty then.

    Raises:
        InvalidRequest: it is neither a form nor JSON, or has no audio.
        PayloadTooLarge: base64 of more bytes than the limit.
        Overloaded: there is no room for so many bytes now.
        UploadStalled: the client sends too slowly.
        ClientDisconnected: the client left before the end of the body.
    """
    services = admitted.services
    content_type = admitted.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    upload = None
    try:
        if content_type == "multipart/form-data":
            upload = await _read_form(admitted, takes_url=takes_url)
        if content_type == "application/json":
            limit_bytes = services.settings.max_audio_bytes
            body = await read_body(admitted)
            upload = await services.pool.run(_upload_of, body, limit_bytes, takes_url)
    except ClientDisconnect as error:
        raise ClientDisconnected from error
    if upload is not None:
        admitted.slot.keep(upload.held_bytes)
        return upload
    raise InvalidRequest(
        "Send the audio as multipart/form-data with the field 'file', or as application/json with the field "
        "'audio'. The content type was " + (repr(content_type[:80]) if content_type else "missing") + ".",
        param="file",
    )


async def read_body(admitted: Admitted) -> bytearray:
    """Return the whole body; raises `Overloaded` where there is no room for it."""
    body = bytearray()  # in its place: a list of chunks and what joins them would be twice as much
    async for chunk in _received(admitted):
        body += chunk
    return body


async def _received(admitted: Admitted) -> AsyncIterator[bytes]:
    """Yield the body as it comes in, counted: not every client declares its length.

    Raises:
        UnsupportedEncoding: it is compressed, which no audio gains from, and which hides its size.
    """
    encoding = admitted.request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedEncoding(
            f"The body is compressed: its Content-Encoding is {encoding[:40]!r}. Send it as it is."
        )
    async for chunk in admitted.request.stream():
        admitted.slot.receive(len(chunk))
        yield chunk


async def _read_form(admitted: Admitted, *, takes_url: bool) -> Upload:
    form = await read_form(admitted.request.headers["content-type"], _received(admitted))
    names_url = takes_url and any(form.fields.get(FILE_URL, ()))
    if form.file is not None and names_url:
        raise _both()
    if form.file is None and not names_url:
        raise InvalidRequest(
            "The form has no file. Send the audio in the field 'file', for example with "
            "curl -F file=@speech.wav.",
            param="file",
        )
    fields = from_form(form.fields)
    param = FILE_URL if form.file is None else "file"
    kept = {name: fields[name] for name in fields.keys() & _FIELDS}
    return Upload(bytes(form.file or b""), kept, param)


def _upload_of(body: bytearray, max_bytes: int, takes_url: bool) -> Upload:
    """Parse and decode; runs on the pool."""
    parsed = parse_json(body)
    if takes_url and isinstance(parsed.value, dict) and parsed.value.get(FILE_URL):
        if any(parsed.value.get(name) for name in ("audio", "audio_options", OPENROUTER_FIELD, "messages")):
            raise _both()
        return Upload(b"", parsed.fields(_FIELDS), FILE_URL)
    found = find_audio(parsed.value)
    param = OPENROUTER_FIELD if found is data_of(parsed.value.get(OPENROUTER_FIELD)) else "audio"
    try:
        data = decode_base64(parsed.content(found), max_bytes)
    except InvalidRequest as error:
        error.param = param
        raise
    return Upload(data, parsed.fields(_FIELDS), param)


def _both() -> InvalidRequest:
    return InvalidRequest("Send the audio or a file_url, not both.", param=FILE_URL)


def _size_of(value: Any) -> int:
    """Return what a value of a request takes up, roughly: its texts, and what holds them."""
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        size += sum(_size_of(name) + _size_of(item) for name, item in value.items())
    elif isinstance(value, list | tuple):
        size += sum(map(_size_of, value))
    return size
