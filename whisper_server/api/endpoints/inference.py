"""POST /inference, as whisper.cpp's server has it: for programs that were written for that one."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Response

from whisper_server.api.deps import OVERLOADED, AdmittedDep
from whisper_server.api.endpoints.transcribe import Transcribing, rendered
from whisper_server.api.replies.audio import TranslationReply, VerboseReply
from whisper_server.api.requests.bodies import InferenceForm
from whisper_server.api.requests.read import read_inference
from whisper_server.services.rendering.formats import JSON_TYPE

router = APIRouter(responses=OVERLOADED)

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": InferenceForm.model_json_schema()}},
    }
}
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text, in the format that was asked for.",
        "model": VerboseReply | TranslationReply,
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@router.post("/inference", response_class=Response, responses=_REPLIES, openapi_extra=_BODY)
async def create_inference(admitted: AdmittedDep) -> Response:
    """Turn speech into text, with the fields and replies of whisper.cpp's server."""
    wanted = await read_inference(admitted)
    admitted.log["format"] = wanted.response_format
    work = Transcribing(admitted, wanted.upload, wanted.model, wanted.params)
    transcript, _ = await work.transcribe()
    if wanted.response_format == "json":  # no usage there
        return Response(json.dumps({"text": transcript.text}, ensure_ascii=False), media_type=JSON_TYPE)
    return await rendered(admitted, wanted, transcript)
