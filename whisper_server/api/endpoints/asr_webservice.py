"""The routes of whisper-asr-webservice, as Bazarr, subgen and Speakr call them.

Bazarr sends the sound of a whole film, as samples without a header, and writes the reply into a subtitle file
whatever its status: samples are heard as they come in, and errors have no body (`middleware.silent_errors`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from whisper_server import __version__
from whisper_server.api.deps import OVERLOADED, Admitted, declared_bytes, get_services, reading_factor
from whisper_server.api.disconnect import until_disconnect
from whisper_server.api.endpoints.transcribe import Transcribing, named_as, observed
from whisper_server.api.replies.asr import DetectedLanguage, StatusReply
from whisper_server.api.requests.asr import FILE, AsrQuery, DetectQuery, is_raw
from whisper_server.api.requests.read import validated
from whisper_server.api.requests.streamed_part import ArrivingBody, StreamedPart
from whisper_server.api.requests.upload import Upload
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.languages import language_name
from whisper_server.core.types import ModelSource, TrackChoice, TranscribeParams, Transcript
from whisper_server.services.audio.pcm import BYTES_PER_SECOND, PcmStream
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.language_detection import Detection, Stretch
from whisper_server.services.rendering.webservice_formats import webservice_output
from whisper_server.services.transcription import SampleStream

ENGINE = "whisper-server"


def _described(query: type[BaseModel]) -> dict[str, Any]:
    """Describe the parameters in the query, and the form."""
    form = {
        "type": "object",
        "required": [FILE],
        "properties": {FILE: {"type": "string", "format": "binary"}},
    }
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in query.model_json_schema()["properties"].items()
        ],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
    }


_OUTPUTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript, bare, in the format of `output`. Errors have no body.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


async def admit_recording(request: Request) -> AsyncIterator[Admitted]:
    """Give the request a slot before its body is read; raw samples are never held, so they take no room.

    Raises:
        Overloaded: the server has enough to do.
    """
    services = await get_services(request)
    is_held = not is_raw(request.url.path, request.query_params)
    with services.admission.enter(declared_bytes(request) if is_held else 0, reading_factor(request)) as slot:
        yield Admitted(request, services, slot)


RecordingDep = Annotated[Admitted, Depends(admit_recording)]

router = APIRouter()


@router.get("/status")
async def status() -> StatusReply:
    """Say which version this is; Bazarr's connection test asks."""
    return StatusReply(version=__version__)


@router.post(
    "/asr",
    response_class=Response,
    responses={**OVERLOADED, **_OUTPUTS},
    openapi_extra=_described(AsrQuery),
)
async def asr(admitted: RecordingDep) -> Response:
    """Turn a recording into text or subtitles, as whisper-asr-webservice does."""
    query = validated(AsrQuery, dict(admitted.request.query_params))
    admitted.log["format"] = query.output
    model = query.model or admitted.services.catalog.default
    params = query.params(admitted.services.catalog.resolve(model))
    subtitles = query.subtitles()
    body = ArrivingBody(admitted.request)
    part = StreamedPart(admitted.request.headers.get("content-type", ""), FILE)
    if query.encode:
        transcript = await _of_file(admitted, await _read(admitted, body, part), model, params, query)
    else:
        transcript = await _of_samples(admitted, body, part, model, params)
    text = await admitted.services.pool.run(webservice_output, transcript, query.output, subtitles)
    name = quote(f"{part.filename or FILE}.{query.output}", safe="")
    headers = {"asr-engine": ENGINE, "content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/plain", headers=headers)


@router.post("/detect-language", responses=OVERLOADED, openapi_extra=_described(DetectQuery))
async def detect_language(admitted: RecordingDep) -> DetectedLanguage:
    """Tell which language is spoken, by the first minutes of speech; what follows is read and forgotten."""
    query = validated(DetectQuery, dict(admitted.request.query_params))
    services = admitted.services
    model = admitted.log["model"] = query.model or services.catalog.default
    source = services.catalog.resolve(model)
    services.shutdown.check_open()
    body = ArrivingBody(admitted.request)
    part = StreamedPart(admitted.request.headers.get("content-type", ""), FILE)
    with named_as(FILE):
        if query.encode:
            data = await _read(admitted, body, part)
            choice = TrackChoice(query.audio_track)
            file = await services.pool.run(
                services.audio.open, data, None, choice, unclaimed=AudioStream.close
            )
            found = await _detected(admitted, body, file, source, query.stretch())
        else:
            async with contextlib.aclosing(part.chunks(body.chunks())) as chunks:
                samples = _samples(admitted, chunks)
                found = await _detected(admitted, body, samples, source, query.stretch())
                # A client that sends a film hears the answer when it has sent it, and not before.
                async for _ in chunks:
                    pass
    return DetectedLanguage(
        detected_language=language_name(found.code),
        language_code=found.code,
        confidence=round(found.confidence, 4),
    )


async def _detected(
    admitted: Admitted, body: ArrivingBody, audio: SampleStream, source: ModelSource, stretch: Stretch
) -> Detection:
    """Listen; ends with the client."""
    try:
        work = admitted.services.transcriber.language_of(audio, source, stretch)
        return await until_disconnect(body.receive_after, work)
    finally:
        admitted.services.metrics.audio_read(audio.position_s)
        admitted.log["audio_s"] = round(audio.position_s, 3)


async def _read(admitted: Admitted, body: ArrivingBody, part: StreamedPart) -> bytes:
    """Return a whole file; raises `Overloaded` where there is no room for it."""

    async def counted() -> AsyncGenerator[bytes, None]:
        async for chunk in body.chunks():
            admitted.slot.receive(len(chunk))
            yield chunk

    async with contextlib.aclosing(counted()) as chunks:
        data = b"".join([piece async for piece in part.chunks(chunks)])
    admitted.slot.keep(len(data))
    return data


async def _of_file(
    admitted: Admitted, data: bytes, model: str, params: TranscribeParams, query: AsrQuery
) -> Transcript:
    """Transcribe a file, by its channels where they are wanted and differ."""
    upload = Upload(data, {}, FILE)
    if query.diarize:
        try:
            by_channel = Transcribing(admitted, upload, model, replace(params, speakers=()))
            return (await by_channel.transcribe())[0]
        except InvalidRequest as error:
            if error.param != "response_format":  # that is about the channels
                raise
    return (await Transcribing(admitted, upload, model, params).transcribe())[0]


async def _of_samples(
    admitted: Admitted, body: ArrivingBody, part: StreamedPart, model: str, params: TranscribeParams
) -> Transcript:
    """Transcribe samples while they come in."""
    started_s = time.monotonic()
    admitted.services.shutdown.check_open()
    with named_as(FILE):
        async with contextlib.aclosing(part.chunks(body.chunks())) as chunks:
            source = admitted.services.transcriber.listen(_samples(admitted, chunks), params)
            with observed(admitted, model, source, started_s):
                return await until_disconnect(body.receive_after, source.collect())


def _samples(admitted: Admitted, chunks: AsyncGenerator[bytes, None]) -> PcmStream:
    """Open what comes in, as long as the client says; raises `Overloaded` where that is too much now."""
    limit_s = float(admitted.services.settings.max_audio_seconds)
    claimed_s = declared_bytes(admitted.request) / BYTES_PER_SECOND
    admitted.slot.expect(min(claimed_s, limit_s))
    return PcmStream(chunks, limit_s, claimed_s=claimed_s or None)
