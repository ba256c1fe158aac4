"""Who speaks when in a recording, without its text. Beyond OpenAI."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Response

from whisper_server.api.deps import OVERLOADED, Admitted, AdmittedDep
from whisper_server.api.disconnect import until_disconnect
from whisper_server.api.endpoints.transcribe import bodies_of, expect, named_as
from whisper_server.api.replies.diarization import DiarizationReply
from whisper_server.api.requests.bodies import DiarizationForm, DiarizationJson
from whisper_server.api.requests.read import DiarizationRequest, read_diarization
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.rendering.formats import render_turns

_BODIES = bodies_of(DiarizationForm, DiarizationJson)
_TURNS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Who speaks when.",
        "model": DiarizationReply,
        "content": {"text/plain": {"schema": {"type": "string", "description": "NIST's RTTM."}}},
    }
}

router = APIRouter(responses=OVERLOADED)


@router.post("/v1/audio/diarization", response_class=Response, responses=_TURNS, openapi_extra=_BODIES)
async def create_diarization(admitted: AdmittedDep) -> Response:
    """Tell who speaks when, by voice alone, whatever channels the recording has."""
    wanted = await read_diarization(admitted)
    admitted.log["format"] = wanted.response_format
    body, media_type = await until_disconnect(admitted.request.receive, _rendered(admitted, wanted))
    return Response(body, media_type=media_type)


async def _rendered(admitted: Admitted, wanted: DiarizationRequest) -> tuple[str, str]:
    services, started_s = admitted.services, time.monotonic()
    services.shutdown.check_open()
    known = await services.speakers.known(wanted.names, wanted.voices)
    with named_as(wanted.upload.param):
        stream = await services.pool.run(
            services.audio.open, wanted.upload.data, None, wanted.track, unclaimed=AudioStream.close
        )
        try:
            expect(admitted, stream.info)
            turns = await services.speakers.of(
                stream, known, lambda read_s: admitted.slot.progress(read_s, stream.position_s)
            )
        finally:
            stream.close()
            services.metrics.audio_read(stream.position_s)
            admitted.log["audio_s"] = round(stream.position_s, 3)
    services.metrics.audio_transcribed(stream.position_s, time.monotonic() - started_s)
    return await services.pool.run(render_turns, turns, stream.position_s, wanted.response_format)
