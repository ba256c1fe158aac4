"""POST /v1/models/{id}: prepare a model on the disk before the first request that needs it.

It needs no permission of its own: a request for a transcription that names the model does as much and more.
Only names of the catalog can be downloaded, so no client chooses what the server downloads.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from whisper_server.api.deps import ServicesDep
from whisper_server.api.disconnect import until_disconnect
from whisper_server.api.models import DownloadedModel
from whisper_server.api.replies import sse
from whisper_server.services.model_files.downloads import Download

router = APIRouter()

_STEPS = 1000  # events of one download at most
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "It is there. With `stream`: how far it is, and a last event with status success.",
        "model": DownloadedModel,
        "content": {
            sse.MEDIA_TYPE: {
                "schema": {
                    "description": "Lines `data: <JSON>`: `status` is downloading, converting or success;"
                    " with the first two, `completed` and `total` count bytes.",
                }
            }
        },
    }
}


@router.post("/v1/models/{model:path}", response_class=Response, responses=_REPLIES)
async def pull_model(
    model: str,
    request: Request,
    services: ServicesDep,
    stream: Annotated[bool, Query(description="Tell of the progress in Server-Sent Events.")] = False,
) -> Response:
    """Download and convert a model without loading it; what is there already is not downloaded again.

    The download goes on when the client disconnects; another request for the model joins it.
    """
    download = services.downloads.start(services.catalog.resolve(model))
    if stream:
        return sse.EventStream(_events(download))
    await until_disconnect(request.receive, download.wait())
    return Response(DownloadedModel(id=model).model_dump_json(), media_type="application/json")


async def _events(download: Download) -> AsyncGenerator[bytes, None]:
    """Frame the progress; the first frame waits for the first bytes, so that a failure before is a 503."""
    step = -1
    async with contextlib.aclosing(download.progress()) as progress:
        async for done_bytes, total_bytes in progress:
            if done_bytes * _STEPS // total_bytes != step:
                step = done_bytes * _STEPS // total_bytes
                status = "converting" if done_bytes >= total_bytes else "downloading"
                yield sse.event({"status": status, "completed": done_bytes, "total": total_bytes})
    yield sse.event({"status": "success"})
