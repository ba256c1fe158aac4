"""A recording and the text that is said in it: when each word is said. Beyond OpenAI."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from whisper_server.api.deps import OVERLOADED, AdmittedDep
from whisper_server.api.endpoints.transcribe import Transcribing, bodies_of
from whisper_server.api.replies.alignment import AlignmentReply
from whisper_server.api.requests.bodies import AlignmentForm, AlignmentJson
from whisper_server.api.requests.read import read_alignment
from whisper_server.services.rendering.formats import render_alignment

_BODIES = bodies_of(AlignmentForm, AlignmentJson)
_ALIGNMENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text with its times.",
        "model": AlignmentReply,
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(responses=OVERLOADED)


@router.post("/v1/audio/alignments", response_class=Response, responses=_ALIGNMENTS, openapi_extra=_BODIES)
async def create_alignment(admitted: AdmittedDep) -> Response:
    """Tell when each word of a given text is said; words and lines, or subtitles."""
    wanted = await read_alignment(admitted)
    admitted.log["format"] = wanted.response_format
    work = Transcribing(admitted, wanted.upload, wanted.model, wanted.params, wanted.text)
    transcript, _ = await work.transcribe()
    body, media_type = await admitted.services.pool.run(
        render_alignment, transcript, wanted.response_format, wanted.subtitles
    )
    return Response(body, media_type=media_type)
