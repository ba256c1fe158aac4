"""Short-lived keys for the realtime API, each with what its session begins with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from whisper_server.api.deps import ServicesDep
from whisper_server.api.endpoints.realtime import new_id
from whisper_server.api.ephemeral_keys import LIFETIME_S, new_key
from whisper_server.api.requests.json_text import parse_json
from whisper_server.api.requests.read import validated
from whisper_server.core.errors import InvalidRequest
from whisper_server.services.container import Services
from whisper_server.services.realtime.configuration import SessionConfig
from whisper_server.services.realtime.params import params_of

router = APIRouter()

_MAX_BODY_BYTES = 1 << 16


class ExpiresAfter(BaseModel):
    """How long a key opens sessions; those that it opened go on."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = LIFETIME_S  # bounds of the hosted API


class ClientSecretBody(BaseModel):
    """The body of a request for a key."""

    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = Field(None, description="As in `session.update`.")


class TranscriptionSessionBody(BaseModel):
    """The body of the older request: the session itself, as in `transcription_session.update`."""

    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    input_audio_transcription: dict[str, Any] | None = None
    input_audio_noise_reduction: dict[str, Any] | None = None
    turn_detection: dict[str, Any] | None = None
    include: list[str] | None = None


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}}}


@router.post("/v1/realtime/client_secrets", openapi_extra=_body(ClientSecretBody))
async def create_client_secret(request: Request, services: ServicesDep) -> dict[str, Any]:
    """Make a key that opens sessions, for who must not have the server's own; they begin as it says."""
    body = validated(ClientSecretBody, await _fields(request))
    config = SessionConfig().updated(body.session or {})
    lifetime_s = (body.expires_after or ExpiresAfter()).seconds
    value, expires_at = _key(services, config, lifetime_s)
    session = {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": new_id("sess"),
        "expires_at": 0,
        **config.wire(),
    }
    return {"value": value, "expires_at": expires_at, "session": session}


@router.post("/v1/realtime/transcription_sessions", openapi_extra=_body(TranscriptionSessionBody))
async def create_transcription_session(request: Request, services: ServicesDep) -> dict[str, Any]:
    """Make such a key in the shape that the API had before it was declared stable."""
    given = await _fields(request)
    config = SessionConfig().updated_flat(given)
    value, expires_at = _key(services, config, LIFETIME_S)
    sound = config.wire()["audio"]["input"]
    return {
        "id": new_id("sess"),
        "object": "realtime.transcription_session",
        "client_secret": {"value": value, "expires_at": expires_at},
        "modalities": ["text"],
        "input_audio_format": given.get("input_audio_format", "pcm16"),
        "input_audio_transcription": sound["transcription"],
        "turn_detection": sound["turn_detection"],
    }


def _key(services: Services, config: SessionConfig, lifetime_s: int) -> tuple[str, int]:
    """Return a key for sessions that begin so, and when it expires.

    Raises:
        InvalidRequest: a value of the session is wrong, or it is too long for a key.
        ModelNotFound: the name of the model is not configured.
    """
    params_of(config, services.catalog)
    session = None if config == SessionConfig() else config.wire()
    return new_key(services.settings.api_key.encode(), time.time(), lifetime_s, session)


async def _fields(request: Request) -> Mapping[str, Any]:
    """Return what a small body of JSON says; nothing, where there is none.

    Raises:
        InvalidRequest: it is too long, or no object.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InvalidRequest(f"The body is longer than {_MAX_BODY_BYTES} bytes.")
    value = parse_json(body).value if body else {}
    if not isinstance(value, dict):
        raise InvalidRequest("Send a JSON object, with what is asked of the session in 'session'.")
    return value
