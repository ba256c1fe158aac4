"""The HTTP endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Generator, Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from whisper_server import __version__
from whisper_server.api.asgi import log_fields
from whisper_server.api.deps import ServicesDep
from whisper_server.api.health import health_body
from whisper_server.api.models import (
    AudioInfoReply,
    DiarizedReply,
    FormBody,
    FormReply,
    HealthReply,
    JsonBody,
    JsonReply,
    ModelList,
    ModelObject,
    ReadyReply,
    RootReply,
    TokenLogprob,
)
from whisper_server.api.requests import (
    TranscriptionRequest,
    Upload,
    read_transcription,
    read_upload,
    until_gone,
)
from whisper_server.core.errors import InvalidAudio, Unavailable
from whisper_server.core.types import AudioInfo, AudioLevels, Transcript
from whisper_server.services import vad
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.catalog import ModelSource
from whisper_server.services.container import Services
from whisper_server.services.formats import logprob_objects, render

router = APIRouter()

_CREATED = int(time.time())  # clients expect a time; when a model was published is not known here

_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FormBody.model_json_schema()},
            "application/json": {"schema": JsonBody.model_json_schema()},
        },
    }
}
_TRANSCRIPTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript. A JSON request for format json, the default, gets its own shape.",
        "model": FormReply | JsonReply | DiarizedReply,
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@router.get("/")
async def root() -> RootReply:
    """Say what this is."""
    return RootReply(
        name="whisper-server",
        version=__version__,
        docs="/docs",
        transcriptions="/v1/audio/transcriptions",
        models="/v1/models",
        health="/health",
    )


@router.get("/health", response_model=HealthReply)
async def health(services: ServicesDep) -> dict[str, Any]:
    """Tell that the process lives, and which models are in memory; always 200."""
    return health_body(services.models.loaded())


@router.get("/ready")
async def ready(request: Request) -> ReadyReply:
    """Tell whether requests are answered without a wait for the models named in WHISPER_PRELOAD."""
    preloading: asyncio.Task[None] = request.app.state.preloading
    if not preloading.done():
        raise Unavailable("The models of WHISPER_PRELOAD are being loaded.")
    return ReadyReply(status="ready")


@router.get("/v1/models")
async def list_models(services: ServicesDep) -> ModelList:
    """List every model name that this server answers to."""
    return ModelList(data=[_model_object(name, source) for name, source in services.catalog.names()])


@router.get("/v1/models/{model:path}")
async def get_model(model: str, services: ServicesDep) -> ModelObject:
    """Describe one model."""
    return _model_object(model, services.catalog.resolve(model))


def _model_object(name: str, source: ModelSource) -> ModelObject:
    owner = source.repo.partition("/")[0] if source.repo else "local"
    return ModelObject(id=name, created=_CREATED, owned_by=owner)


@router.post(
    "/v1/audio/transcriptions", response_class=Response, responses=_TRANSCRIPTS, openapi_extra=_BODIES
)
async def create_transcription(request: Request, services: ServicesDep) -> Response:
    """Turn speech into text. As a form: OpenAI's contract. As JSON: see `JsonBody` and `JsonReply`."""
    started = time.monotonic()
    wanted = await read_transcription(request, services)
    log_fields(request.scope)["format"] = wanted.response_format
    transcript, info = await until_gone(request, _transcribe(request, services, wanted))
    if wanted.upload.is_json and wanted.response_format == "json":
        reply = JsonReply(
            text=transcript.text,
            processing_time=round(time.monotonic() - started, 3),
            model=wanted.params.model,
            format=info.format,
            logprobs=[TokenLogprob(**each) for each in logprob_objects(transcript.segments)]
            if transcript.shows_logprobs
            else None,
        )
        return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")
    body, media_type = await services.pool.run(render, transcript, wanted.response_format, wanted.subtitles)
    return Response(body, media_type=media_type)


async def _transcribe(
    request: Request, services: Services, wanted: TranscriptionRequest
) -> tuple[Transcript, AudioInfo]:
    """Run the straight line and note for the log what it did."""
    fields = log_fields(request.scope)
    with _named_as(wanted.upload):
        transcription = await services.transcriber.open(wanted.upload.data, wanted.params)
        fields["model"] = wanted.params.model  # known now, so it is safe to log
        try:
            return await transcription.collect(), transcription.audio.info
        finally:
            fields["audio_s"] = round(transcription.duration_s, 3)
            fields["windows"] = transcription.windows_done


@router.post("/debug/audio-info", openapi_extra=_BODIES)
async def audio_info(request: Request, services: ServicesDep) -> AudioInfoReply:
    """Tell what the audio is without transcribing it; takes the same bodies as a transcription."""
    upload = await read_upload(request, services)
    return await until_gone(request, _inspect(services, upload))


async def _inspect(services: Services, upload: Upload) -> AudioInfoReply:
    with _named_as(upload):
        stream = await services.pool.run(services.audio.open, upload.data, unclaimed=AudioStream.close)
        durations = services.pool.iterate(_speech_seconds(stream))
        try:
            async with contextlib.aclosing(durations):  # type: ignore[type-var]
                speech_s = sum([duration_s async for duration_s in durations])
        finally:
            stream.close()  # ends a step that still runs for a client that has left
    return _audio_info_reply(len(upload.data), stream.info, stream.levels(), speech_s)


def _speech_seconds(stream: AudioStream) -> Generator[float, None, None]:
    """Yield how long each stretch of speech is, and 0 now and then; runs on the pool."""
    for span in vad.steps(stream.blocks(), vad.TIGHT):
        yield span.end_s - span.start_s if span is not None else 0.0


def _audio_info_reply(
    size_bytes: int, info: AudioInfo, levels: AudioLevels, speech_s: float
) -> AudioInfoReply:
    return AudioInfoReply(
        size_bytes=size_bytes,
        format=info.format,
        container=info.container,
        codec=info.codec,
        duration_s=round(levels.duration_s, 3),
        sample_rate_hz=info.sample_rate_hz,
        channels=info.channels,
        peak_dbfs=_finite(levels.peak_dbfs),
        rms_dbfs=_finite(levels.rms_dbfs),
        speech_s=round(speech_s, 3),
    )


def _finite(level_dbfs: float) -> float | None:
    """Return the level as JSON can say it: silence is minus infinity."""
    return round(level_dbfs, 2) if math.isfinite(level_dbfs) else None


@contextlib.contextmanager
def _named_as(upload: Upload) -> Iterator[None]:
    """Let errors of the audio name the field that the client sent it in."""
    try:
        yield
    except InvalidAudio as error:
        error.param = upload.param
        raise
