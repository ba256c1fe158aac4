"""Jobs on the wire: their schemas, which follow OpenAI's batches, and their events."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, Field

from whisper_server.services.jobs import codec
from whisper_server.services.jobs.states import Job, Status


class JobError(BaseModel):
    """Why a job failed: what a request would have been answered."""

    message: str
    type: str
    param: str | None
    code: str | None


class JobObject(BaseModel):
    """A job; times are whole seconds since 1970."""

    id: str
    object: Literal["transcription.job"] = "transcription.job"
    endpoint: str = Field(description="The path that it was sent to.")
    model: str
    status: Status = Field(
        description="`validating`: it waits for its turn. `cancelling`: its work is about to end."
    )
    created_at: int
    in_progress_at: int | None = None
    cancelling_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelled_at: int | None = None
    seconds_done: float = Field(description="Audio that is transcribed.")
    seconds_total: float | None = Field(
        None, description="Audio in all, as its header says; null: it does not."
    )
    seconds_left: float | None = Field(
        None, description="Time until the end at the job's speed so far; null: it has none yet."
    )
    error: JobError | None = Field(None, description="Why it failed.")
    text: str | None = Field(None, description="The text so far; not in lists.")


class JobList(BaseModel):
    """Jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedJob(BaseModel):
    """A job that had ended is forgotten."""

    id: str
    object: Literal["transcription.job"] = "transcription.job"
    deleted: Literal[True] = True


class JobEvent(BaseModel):
    """How far a job is; the last event of a job whose status is an end."""

    type: Literal["job.progress", "job.completed", "job.failed", "job.expired", "job.cancelled"]
    job: JobObject


def job_object(job: Job, now_s: float, text: str | None = None) -> JobObject:
    """Return a job as clients see it; `now_s` by the clock of its times."""
    left_s = job.seconds_left(now_s)
    ended_at = {f"{job.status}_at": _whole(job.ended_at)} if job.has_ended else {}
    return JobObject(
        id=job.id,
        endpoint=job.endpoint,
        model=job.model,
        status=job.status,
        created_at=math.floor(job.created_at),
        in_progress_at=_whole(job.in_progress_at),
        cancelling_at=_whole(job.cancelling_at),
        seconds_done=round(job.seconds_done, 3),
        seconds_total=None if job.seconds_total is None else round(job.seconds_total, 3),
        seconds_left=None if left_s is None else round(left_s, 1),
        error=None if job.error is None else JobError.model_validate(codec.error_of(job.error)),
        text=text,
        **ended_at,  # type: ignore[arg-type]
    )


def _whole(time_s: float | None) -> int | None:
    return None if time_s is None else math.floor(time_s)
