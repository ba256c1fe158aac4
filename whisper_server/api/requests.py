"""Request body -> bytes and checked parameters.

Owns both encodings, multipart and JSON. Bodies stay in memory: nothing of an upload is written to disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from whisper_server.api.gone import ClientGone
from whisper_server.api.handlers import invalid_value
from whisper_server.api.models import TranscriptionFields, TranslationFields
from whisper_server.api.multipart import read_form
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.languages import parse_language
from whisper_server.core.validators import (
    check_granularities,
    check_streamed,
    check_temperature,
    decode_base64,
    find_audio,
)
from whisper_server.services.container import Services
from whisper_server.services.formats import TRANSLATED_FORMATS, check_format
from whisper_server.services.transcriber import TranscribeParams

FORM_OVERHEAD_BYTES = 1 << 20  # for everything in a request that is not audio

MAX_PROMPT_CHARS = 10_000  # the model sees its last 224 tokens; what is before them is only work
_LISTS = ("timestamp_granularities", "timestamp_granularities[]")


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent, of either encoding."""

    data: bytes
    fields: Mapping[str, Any]  # as they came; unchecked
    param: str  # what the client calls the audio: "file", "audio" or "messages"

    @property
    def is_json(self) -> bool:
        """Whether it came as JSON."""
        return self.param == "audio"


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """A checked request for a transcription."""

    upload: Upload
    params: TranscribeParams
    response_format: str
    stream: bool


def body_limit(content_type: str, max_audio_bytes: int) -> int:
    """Return how many bytes the body may have; base64 writes three bytes as four."""
    is_form = content_type.lower().startswith("multipart/form-data")
    audio = max_audio_bytes if is_form else max_audio_bytes * 4 // 3
    return audio + FORM_OVERHEAD_BYTES


async def read_transcription(request: Request, services: Services) -> TranscriptionRequest:
    """Read the body and check every parameter; the audio itself is not looked at.

    Raises:
        InvalidRequest: a parameter is wrong, or there is no audio.
        PayloadTooLarge: the audio is larger than the limit.
    """
    upload = await read_upload(request, services)
    try:
        fields = TranscriptionFields.model_validate(upload.fields)
    except ValidationError as error:
        raise invalid_value(error.errors(include_url=False)) from error
    response_format = check_format(fields.response_format)
    if fields.stream:
        check_streamed(response_format)
    granularities = check_granularities(fields.timestamp_granularities, response_format)
    params = TranscribeParams(
        model=fields.model or services.catalog.default,
        language=parse_language(fields.language),
        prompt=fields.prompt[-MAX_PROMPT_CHARS:],
        temperature=check_temperature(fields.temperature),
        word_timestamps="word" in granularities,
    )
    return TranscriptionRequest(upload, params, response_format, fields.stream)


async def read_translation(request: Request, services: Services) -> TranscriptionRequest:
    """Read the body of a translation; raises as `read_transcription`."""
    upload = await read_upload(request, services)
    try:
        fields = TranslationFields.model_validate(upload.fields)
    except ValidationError as error:
        raise invalid_value(error.errors(include_url=False)) from error
    params = TranscribeParams(
        model=fields.model or services.catalog.default,
        task="translate",
        prompt=fields.prompt[-MAX_PROMPT_CHARS:],
        temperature=check_temperature(fields.temperature),
    )
    response_format = check_format(fields.response_format, TRANSLATED_FORMATS)
    return TranscriptionRequest(upload, params, response_format, stream=False)


async def read_upload(request: Request, services: Services) -> Upload:
    """Read the body into memory, whatever its encoding.

    Raises:
        InvalidRequest: it is neither a form nor JSON, or has no audio.
        PayloadTooLarge: base64 of more bytes than the limit.
        ClientGone: the client left before the end of the body.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type == "multipart/form-data":
            return await _read_form(request)
        if content_type == "application/json":
            limit_bytes = services.settings.max_audio_bytes
            return await services.pool.run(_upload_of, await request.body(), limit_bytes)
    except ClientDisconnect as error:
        raise ClientGone from error
    raise InvalidRequest(
        "Send the audio as multipart/form-data with the field 'file', or as application/json with the field "
        "'audio'. The content type was " + (repr(content_type[:80]) if content_type else "missing") + ".",
        param="file",
    )


async def _read_form(request: Request) -> Upload:
    form = await read_form(request.headers["content-type"], request.stream())
    if form.file is None:
        raise InvalidRequest(
            "The form has no file. Send the audio in the field 'file', for example with "
            "curl -F file=@speech.wav.",
            param="file",
        )
    fields: dict[str, Any] = {name: values[-1] for name, values in form.fields.items()}
    listed = [value for name in _LISTS for value in form.fields.get(name, ()) if value]
    return Upload(bytes(form.file), {**fields, "timestamp_granularities": tuple(listed)}, "file")


def parse_json(body: bytes) -> Any:
    """Parse a body; takes long for a large one. An empty body is an empty object.

    Raises:
        InvalidRequest: it is no JSON.
    """
    try:
        return json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"The request body is not valid JSON: {reason}.") from error


def _upload_of(body: bytes, max_bytes: int) -> Upload:
    """Parse and decode; runs on the pool."""
    parsed = parse_json(body)
    return Upload(decode_base64(find_audio(parsed), max_bytes), parsed, "audio")
