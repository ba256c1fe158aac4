"""The straight line as endpoints use it: for a whole transcript, or phrase by phrase."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from fastapi import Request

from whisper_server.api.asgi import log_fields
from whisper_server.api.requests import Upload
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import AudioInfo, Segment, Transcript
from whisper_server.services.channels import Conversation
from whisper_server.services.container import Services
from whisper_server.services.deltas import Deltas
from whisper_server.services.transcriber import TranscribeParams, Transcription

_AUDIO_PARAMS = frozenset({"file", "audio"})  # what the checks call the audio, which know of no request


async def transcribe(
    request: Request, services: Services, upload: Upload, params: TranscribeParams
) -> tuple[Transcript, AudioInfo]:
    """Run the line to its end."""
    async with _opened(request, services, upload, params) as transcription:
        return await transcription.collect(), transcription.audio.info


async def phrases(
    request: Request, services: Services, upload: Upload, params: TranscribeParams
) -> AsyncGenerator[tuple[str, Segment], None]:
    """Yield segments as soon as their window is decoded, each with what it adds to the text.

    Joined, that is exactly the text of the whole transcript. Run it under `contextlib.aclosing`: it holds
    the model's lease and the open file.
    """
    deltas = Deltas()
    async with (
        _opened(request, services, upload, params) as transcription,
        contextlib.aclosing(transcription.segments()) as segments,
    ):
        async for segment in segments:
            yield deltas.add(segment.text), segment


@contextlib.contextmanager
def named_as(param: str) -> Iterator[None]:
    """Let errors of the audio name the field that the client sent it in."""
    try:
        yield
    except InvalidRequest as error:
        if error.param in _AUDIO_PARAMS:
            error.param = param
        raise


@contextlib.asynccontextmanager
async def _opened(
    request: Request, services: Services, upload: Upload, params: TranscribeParams
) -> AsyncIterator[Transcription | Conversation]:
    """Open the upload for the line; note for the log what was done with it."""
    fields = log_fields(request.scope)
    services.models.check_open()  # before anybody reads the audio
    with named_as(upload.param):
        transcription = await services.transcriber.open(upload.data, params)
        fields["model"] = params.model  # known now, so it is safe to log
        try:
            yield transcription
        finally:
            fields["audio_s"] = round(transcription.duration_s, 3)
            fields["windows"] = transcription.windows_done
