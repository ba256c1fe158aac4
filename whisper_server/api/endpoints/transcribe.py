"""The straight line as endpoints use it: for a whole transcript, or phrase by phrase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from fastapi import Request

from whisper_server.api.asgi import log_fields
from whisper_server.api.requests.read import Upload
from whisper_server.core.errors import InvalidRequest, Overloaded
from whisper_server.core.types import AudioInfo, Segment, TranscribeParams, Transcript
from whisper_server.services.admission import Slot
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.channels import Conversation
from whisper_server.services.container import Services
from whisper_server.services.rendering.deltas import Deltas
from whisper_server.services.transcriber import Transcription

_AUDIO_PARAMS = frozenset({"file", "audio"})  # what the checks call the audio, which know of no request


async def transcribe(
    request: Request, services: Services, slot: Slot, upload: Upload, params: TranscribeParams
) -> tuple[Transcript, AudioInfo]:
    """Run the line to its end."""
    async with _opened(request, services, slot, upload, params) as transcription:
        return await transcription.collect(), transcription.audio.info


async def phrases(
    request: Request, services: Services, slot: Slot, upload: Upload, params: TranscribeParams
) -> AsyncGenerator[tuple[str, Segment], None]:
    """Yield segments as soon as their window is decoded, each with what it adds to the text.

    Joined, that is exactly the text of the whole transcript. Run it under `contextlib.aclosing`: it holds
    the model's lease and the open file.
    """
    deltas = Deltas()
    async with (
        _opened(request, services, slot, upload, params) as transcription,
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
    request: Request, services: Services, slot: Slot, upload: Upload, params: TranscribeParams
) -> AsyncIterator[Transcription | Conversation]:
    """Open the upload for the line; note for the log what was done with it."""
    fields = log_fields(request.scope)
    started = time.monotonic()
    services.shutdown.check_open()  # before anybody reads the audio
    with named_as(upload.param):
        transcription = await _admitted(services, slot, upload, params)
        fields["model"] = params.model  # known now, so it is safe to log
        transcription.on_window = lambda done_s: slot.progress(done_s, transcription.duration_s)
        try:
            yield transcription
            slot.progress(transcription.duration_s)  # what is silent at the end comes in no window
            services.metrics.audio_transcribed(transcription.duration_s, time.monotonic() - started)
        finally:
            transcription.on_window = None
            services.metrics.audio_read(transcription.duration_s)
            fields["audio_s"] = round(transcription.duration_s, 3)
            fields["windows"] = transcription.windows_done


async def _admitted(
    services: Services, slot: Slot, upload: Upload, params: TranscribeParams
) -> Transcription | Conversation:
    """Open the upload, unless its header claims more audio than there is room for; decode nothing before."""
    if params.speakers is not None:  # the whole file will be read to compare its channels
        services.catalog.resolve(params.model)
        opened = services.pool.run(services.audio.open, upload.data, unclaimed=AudioStream.close)
        with await opened as stream:
            slot.expect(_claimed_s(services, stream.info))
        return await services.transcriber.open(upload.data, params)
    transcription = await services.transcriber.open(upload.data, params)
    try:
        slot.expect(_claimed_s(services, transcription.audio.info))
    except Overloaded:
        transcription.audio.close()
        raise
    return transcription


def _claimed_s(services: Services, info: AudioInfo) -> float:
    """Return the seconds that a header claims, as far as they can be true; 0 where it claims nothing."""
    return min(max(0.0, info.header_duration_s or 0.0), float(services.settings.max_audio_seconds))
