"""/v1/jobs: what became of requests with `background=true`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from whisper_server.api.deps import ServicesDep
from whisper_server.api.replies import sse
from whisper_server.api.replies.audio import DeltaEvent, DoneEvent, SegmentEvent, WordObject
from whisper_server.api.replies.jobs import DeletedJob, JobEvent, JobList, JobObject, job_object
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import Segment, Transcript
from whisper_server.core.validators import check_granularities, check_include
from whisper_server.services.container import Services
from whisper_server.services.jobs import codec
from whisper_server.services.jobs.states import Job, Status
from whisper_server.services.rendering.deltas import Deltas
from whisper_server.services.rendering.formats import (
    TRANSLATED_FORMATS,
    check_format,
    render,
    timed_segment,
    word_objects,
)
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options

router = APIRouter()

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events until the job ends. For each phrase a DeltaEvent and a SegmentEvent, which "
        "have an `id`. JobEvents tell how far it is; the DoneEvent has the whole text.",
        "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the request would have been answered without `background`, as a form.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }
}


class ResultQuery(BaseModel):
    """How a result is shown; what is left out is as the job's request had it."""

    response_format: str = Field("", description="json, text, srt, verbose_json, vtt or diarized_json.")
    timestamp_granularities: list[str] = Field([], description="word and segment, with verbose_json.")
    include: list[str] = Field([], description="logprobs, with json.")
    max_line_chars: int | None = Field(None, description="For srt and vtt: 10 to 200.")
    max_lines: int | None = Field(None, description="For srt and vtt: 1 to 4.")
    max_cue_seconds: float | None = Field(None, description="For srt and vtt: 1 to 60.")


@router.get("/v1/jobs")
async def list_jobs(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
    after: Annotated[str | None, Query(description="The id of the last job of the page before.")] = None,
    status: Annotated[Status | None, Query(description="Jobs in this state only.")] = None,
) -> JobList:
    """List jobs, the newest first."""
    found, has_more = await services.jobs.page(limit, after or None, status)
    now_s = await services.jobs.now() if found else 0.0
    data = [job_object(job, now_s) for job in found]
    return JobList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.get("/v1/jobs/{job_id}")
async def get_job(job_id: str, services: ServicesDep) -> JobObject:
    """Tell how far a job is, and its text so far."""
    job, text, now_s = await services.jobs.get(job_id)
    return job_object(job, now_s, text)


@router.delete("/v1/jobs/{job_id}")
async def delete_job(job_id: str, services: ServicesDep) -> JobObject | DeletedJob:
    """Cancel a job; one that has ended is forgotten, with its result."""
    job, is_removed = await services.jobs.delete(job_id)
    return DeletedJob(id=job_id) if is_removed else job_object(job, await services.jobs.now())


@router.get("/v1/jobs/{job_id}/result", response_class=Response, responses=_RESULT)
async def get_result(
    job_id: str, request: Request, asked: Annotated[ResultQuery, Query()], services: ServicesDep
) -> Response:
    """Return the transcript of a completed job, in any format and as often as it is asked for."""
    more = request.query_params.getlist
    asked.timestamp_granularities += more("timestamp_granularities[]")
    asked.include += more("include[]")
    job, transcript = await services.jobs.result(job_id)
    body, media_type = await services.pool.run(_rendered, services, job, transcript, asked)
    return Response(body, media_type=media_type)


def _rendered(services: Services, job: Job, transcript: Transcript, asked: ResultQuery) -> tuple[str, str]:
    """Return body and media type; runs on the pool."""
    # What the model's name means by now does not matter any more.
    request = codec.request_of(job.request, services.catalog.resolve(services.catalog.default))
    response_format = check_format(
        asked.response_format or request.response_format,
        TRANSLATED_FORMATS if transcript.task == "translate" else (),
    )
    if response_format == "diarized_json" and request.params.speakers is None:
        raise InvalidRequest(
            "This job does not tell speakers apart: send it with response_format=diarized_json.",
            param="response_format",
        )
    is_own = response_format == request.response_format
    shown = replace(
        transcript,
        shows_words=is_own and request.shows_words,
        shows_segments=transcript.shows_segments or not is_own,
        shows_logprobs=is_own and request.shows_logprobs,
    )
    if asked.timestamp_granularities:
        found = check_granularities(asked.timestamp_granularities, response_format)
        shown = replace(shown, shows_words="word" in found, shows_segments=found != ("word",))
    if asked.include:
        shown = replace(shown, shows_logprobs=bool(check_include(asked.include, response_format)))
    return render(shown, response_format, _limits(asked, request.subtitles))


def _limits(asked: ResultQuery, own: SubtitleOptions) -> SubtitleOptions:
    """Return how large a cue may be: as it is asked for, else as the job's request had it."""
    return check_options(
        own.max_line_chars if asked.max_line_chars is None else asked.max_line_chars,
        own.max_lines if asked.max_lines is None else asked.max_lines,
        own.max_cue_s if asked.max_cue_seconds is None else asked.max_cue_seconds,
    )


@router.get("/v1/jobs/{job_id}/events", response_class=Response, responses=_EVENTS)
async def get_events(job_id: str, request: Request, services: ServicesDep) -> Response:
    """Tell what is new of a job as it comes, from its beginning, or behind the event `Last-Event-ID`."""
    seen = request.headers.get("last-event-id", "").strip()
    if seen and not (seen.isascii() and seen.isdecimal() and len(seen) < 10):
        raise InvalidRequest("Last-Event-ID is not the id of an event.", param="Last-Event-ID")
    return sse.EventStream(_events(services, job_id, int(seen or 0)))


async def _events(services: Services, job_id: str, seen: int) -> AsyncGenerator[bytes, None]:
    """Frame what is new: segment n, from 0, is the events 2n+1 and 2n+2, and the whole text comes last."""
    deltas, parts = Deltas(), []
    number = 0  # of segments that were told, or seen before
    async with contextlib.aclosing(services.jobs.watch(job_id, 0)) as changes:
        async for job, new in changes:
            frames = []
            for text in new:
                segment = codec.segment_of(text)
                delta = deltas.add(segment.text)
                parts.append(delta)
                frames += [
                    sse.event(event.model_dump(exclude_none=True), place)
                    for place, event in enumerate(_of_segment(number, delta, segment), 2 * number + 1)
                    if place > seen
                ]
                number += 1
            if job.status == "completed" and 2 * number + 1 > seen:
                done = DoneEvent(
                    type="transcript.text.done", text="".join(parts), languages=None, logprobs=None
                )
                frames.append(sse.event(done.model_dump(exclude_none=True), 2 * number + 1))
            kind = f"job.{job.status}" if job.has_ended else "job.progress"
            event = JobEvent(type=kind, job=job_object(job, await services.jobs.now()))  # type: ignore[arg-type]
            frames.append(sse.event(event.model_dump(exclude_none=True)))
            yield b"".join(frames)


def _of_segment(number: int, delta: str, segment: Segment) -> tuple[DeltaEvent, SegmentEvent]:
    """Return the two events of a segment, whose number is counted from 0."""
    timed = SegmentEvent(**timed_segment(number + 1, segment))
    said = DeltaEvent(
        type="transcript.text.delta",
        delta=delta,
        language=segment.language,
        segment_id=timed.id,
        logprobs=None,
    )
    timed.words = [WordObject(**each) for each in word_objects(segment)]
    return said, timed
