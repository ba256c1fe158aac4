"""Small HTTP endpoints: what the server is and which models it has; those with audio are in `endpoints`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from whisper_server import __version__
from whisper_server.api import web_page
from whisper_server.api.asgi import wants_page
from whisper_server.api.deps import ServicesDep
from whisper_server.api.endpoints import (
    alignments,
    asr_webservice,
    audio,
    chat,
    diarization,
    inference,
    jobs,
    model_downloads,
    realtime,
    realtime_keys,
)
from whisper_server.api.health import health_body
from whisper_server.api.models import (
    DeletedModel,
    EngineNotes,
    HealthReply,
    ModelList,
    ModelObject,
    QueueObject,
    ReadyReply,
    RootReply,
)
from whisper_server.core.errors import Unavailable
from whisper_server.core.types import ModelSource
from whisper_server.services.admission import AdmissionState
from whisper_server.services.container import Services
from whisper_server.services.model_files.disk import remove_download

router = APIRouter()

_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format; docs/metrics.md lists the metrics.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
_CREATED = int(time.time())  # clients expect a time; when a model was published is not known here


@router.get("/", response_model=RootReply)
async def root(request: Request, services: ServicesDep) -> RootReply | Response:
    """Say what this is; a browser gets the web page."""
    if services.settings.web and wants_page(request.scope):
        return web_page.page()
    return RootReply(
        name="whisper-server",
        version=__version__,
        docs="/docs",
        transcriptions="/v1/audio/transcriptions",
        models="/v1/models",
        health="/health",
    )


@router.get("/health", response_model=HealthReply, response_model_exclude_none=True)
async def health(services: ServicesDep) -> dict[str, Any]:
    """Tell that the process lives, and which models are in memory; always 200."""
    return health_body(services.models.loaded(), is_draining=services.shutdown.is_draining)


@router.get("/ready")
async def ready(request: Request, services: ServicesDep) -> ReadyReply:
    """Tell whether work is taken: WHISPER_PRELOAD is loaded, audio can be read, and the queue is not full."""
    services.shutdown.check_open()
    preloading: asyncio.Task[None] = request.app.state.preloading
    if services.settings.preload and not preloading.done():
        raise Unavailable("The models of WHISPER_PRELOAD are being loaded.")
    if not services.decoders.is_answering:
        await services.pool.run(services.decoders.check)
    queue = _queue_object(services.admission.state())
    if services.admission.state().is_full:
        full = Unavailable(f"The queue is full: {queue.model_dump_json()}")
        full.retry_after_s = services.admission.retry_after_s()
        raise full
    return ReadyReply(status="ready", queue=queue)


@router.get("/metrics", response_class=Response, responses=_METRICS)
async def metrics(services: ServicesDep) -> Response:
    """Tell what happened so far, for Prometheus."""
    page, media_type = await services.metrics.page()
    return Response(page, media_type=media_type)


@router.get("/v1/models", response_model_exclude_none=True)
async def list_models(services: ServicesDep) -> ModelList:
    """List every model name that this server answers to, those of hosted models among them."""
    engines = _engines(services)
    named = [*services.catalog.names(), *services.catalog.aliases()]
    return ModelList(data=[_model_object(*each, engines) for each in named])


@router.get("/v1/models/{model:path}", response_model_exclude_none=True)
async def get_model(model: str, services: ServicesDep) -> ModelObject:
    """Describe one model."""
    return _model_object(model, services.catalog.resolve(model), _engines(services))


@router.delete("/v1/models/{model:path}")
async def delete_model(model: str, services: ServicesDep) -> DeletedModel:
    """Take a model out of memory as soon as no request uses it; the next one that names it reloads it.

    Its downloaded files go too where WHISPER_ALLOW_DELETE says so; a folder of the operator's never does.
    """
    source = services.catalog.resolve(model)
    services.models.unload(source)
    if services.settings.allow_delete and source.repo is not None:
        await services.pool.run(remove_download, source, services.settings.cache_dir)
    return DeletedModel(id=model)


def _queue_object(state: AdmissionState) -> QueueObject:
    limits = state.limits
    return QueueObject(
        requests=state.requests,
        max_requests=limits.requests,
        audio_seconds=round(state.audio_s, 3),
        max_audio_seconds=limits.audio_s,
        upload_bytes=state.upload_bytes,
        max_upload_bytes=limits.upload_bytes,
    )


def _engines(services: Services) -> dict[str, dict[str, Any] | None]:
    """Return what runs the models that are in memory, by canonical name."""
    return {state.name: state.engine for state in services.models.loaded()}


def _model_object(
    name: str, source: ModelSource, engines: Mapping[str, dict[str, Any] | None]
) -> ModelObject:
    owner = source.repo.partition("/")[0] if source.repo else "local"
    engine = engines.get(source.name)
    return ModelObject(
        id=name,
        created=_CREATED,
        owned_by=owner,
        alias_of=source.name if source.name != name else None,
        engine=EngineNotes(**engine) if engine else None,
    )


router.include_router(audio.router)
router.include_router(chat.router)
router.include_router(inference.router)
router.include_router(realtime.router)
router.include_router(realtime_keys.router)
router.include_router(model_downloads.router)
router.include_router(asr_webservice.router)
router.include_router(alignments.router)
router.include_router(jobs.router)
router.include_router(diarization.router)
