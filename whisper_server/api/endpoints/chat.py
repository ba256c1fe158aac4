"""POST /v1/chat/completions for clients that speak only chat: audio comes in a message, its text answers."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Response
from starlette.requests import ClientDisconnect

from whisper_server.api.deps import OVERLOADED, Admitted, AdmittedDep
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.endpoints.transcribe import Transcribing, named_as, reply_of
from whisper_server.api.replies import sse
from whisper_server.api.replies.chat import ChatChoice, ChatMessage, ChatReply, ChatUsage
from whisper_server.api.requests.bodies import ChatBody, ChatFields
from whisper_server.api.requests.json_text import parse_json
from whisper_server.api.requests.read import validated
from whisper_server.api.requests.upload import Upload, read_body
from whisper_server.core.chat_audio import newest_spoken
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.languages import parse_language
from whisper_server.core.types import Segment, TranscribeParams
from whisper_server.core.validators import MAX_PROMPT_CHARS, decode_base64

router = APIRouter(responses=OVERLOADED)

_MESSAGES = "messages"
_FIELDS = frozenset(ChatFields.model_fields)
_PART = '{"type": "input_audio", "input_audio": {"data": "<base64 of the file\'s bytes>", "format": "wav"}}'
_EXAMPLE: dict[str, Any] = {
    "model": "whisper-1",
    "messages": [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
    ],
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ChatBody.model_json_schema(), "example": _EXAMPLE}},
    }
}
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript. With `stream`: chunks of it, then `data: [DONE]`.",
        "model": ChatReply,
        "content": {
            sse.MEDIA_TYPE: {
                "schema": {
                    "type": "string",
                    "description": "Lines `data: <JSON>`, each an object chat.completion.chunk or an error.",
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A checked request."""

    upload: Upload
    fields: ChatFields
    model: str  # as the client names it
    params: TranscribeParams
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))


@router.post("/v1/chat/completions", response_class=Response, responses=_REPLIES, openapi_extra=_BODY)
async def create_chat_completion(admitted: AdmittedDep) -> Response:
    """Answer the newest audio of a conversation with its transcript.

    `temperature`, `max_tokens`, `n` and whatever else tunes a chat model are accepted and ignored: a default
    that a client sends for chats would only spoil the transcript.
    """
    wanted = await _read(admitted)
    admitted.log["format"] = "stream" if wanted.fields.stream else "json"
    work = Transcribing(admitted, wanted.upload, wanted.model, wanted.params)
    if wanted.fields.stream:
        return sse.EventStream(_chunks(work, wanted))
    transcript, _ = await work.transcribe()
    reply = ChatReply(
        id=wanted.id,
        created=wanted.created,
        model=wanted.model,
        choices=[ChatChoice(message=ChatMessage(content=transcript.text))],
        usage=_usage(transcript.segments),
    )
    return reply_of(admitted, reply.model_dump_json())


async def _chunks(work: Transcribing, wanted: _Wanted) -> AsyncGenerator[bytes, None]:
    """Tell what each phrase adds to the text; the first frame also has the role."""
    options = wanted.fields.stream_options
    first = _chunk(wanted, {"role": "assistant", "content": ""})
    segments: list[Segment] = []
    async with contextlib.aclosing(work.phrases()) as found:
        async for delta, segment in found:
            segments.append(segment)
            yield first + _chunk(wanted, {"content": delta})
            first = b""
    tail = first + _chunk(wanted, {}, "stop")
    if options.include_usage:
        tail += sse.event({**_frame(wanted), "choices": [], "usage": _usage(segments).model_dump()})
    yield tail + sse.DONE


def _chunk(wanted: _Wanted, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    usage = {"usage": None} if wanted.fields.stream_options.include_usage else {}
    return sse.event({**_frame(wanted), "choices": [choice], **usage})


def _frame(wanted: _Wanted) -> dict[str, Any]:
    return {
        "id": wanted.id,
        "object": "chat.completion.chunk",
        "created": wanted.created,
        "model": wanted.model,
    }


def _usage(segments: Iterable[Segment]) -> ChatUsage:
    written = sum(len(segment.tokens) for segment in segments)
    return ChatUsage(completion_tokens=written, total_tokens=written)


async def _read(admitted: Admitted) -> _Wanted:
    """Read the body and check what counts; the audio itself is not looked at.

    Raises:
        InvalidRequest: it is no JSON, a parameter is wrong, or no message has audio.
        PayloadTooLarge: base64 of more bytes than the limit.
        Overloaded: there is no room for so many bytes now.
        ClientDisconnected: the client left before the end of the body.
        ModelNotFound: the name of the model is not configured.
    """
    services = admitted.services
    try:
        body = await read_body(admitted)
    except ClientDisconnect as error:
        raise ClientDisconnected from error
    upload, prompt = await services.pool.run(_parse, body, services.settings.max_audio_bytes)
    del body  # what counts of it is in the upload
    admitted.slot.keep(upload.held_bytes)
    fields = validated(ChatFields, upload.fields)
    language = parse_language(fields.language)
    model, source = admitted.model(fields.model)
    params = TranscribeParams(
        model=source,
        language=language,
        language_switching=fields.language_switching,
        prompt=prompt[-MAX_PROMPT_CHARS:],
        audio_track=fields.audio_track,
        priority=fields.priority,
    )
    return _Wanted(upload, fields, model, params)


def _parse(body: bytearray, max_bytes: int) -> tuple[Upload, str]:
    """Return the newest audio, and the text beside it; runs on the pool."""
    parsed = parse_json(body)
    spoken = newest_spoken(parsed.value.get(_MESSAGES)) if isinstance(parsed.value, Mapping) else None
    if spoken is None:
        raise InvalidRequest(
            "No message has audio, and this server answers to nothing else. Add a part"
            f" {_PART} to the content of the last message.",
            param=_MESSAGES,
        )
    with named_as(_MESSAGES):
        data = decode_base64(parsed.content(spoken.data), max_bytes)
    return Upload(data, parsed.fields(_FIELDS), _MESSAGES), parsed.restored(spoken.text, _MESSAGES)
