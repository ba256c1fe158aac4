"""What a job is: its states, which OpenAI's batches have too, and what is kept of it. Pure.

    validating -> in_progress -> completed | failed
        |             |
        +-------------+--> cancelling -> cancelled
        +-------------+--> expired

`validating`: it is accepted and waits for its turn. `cancelling`: a server is at work on it and will end
that. A job whose server has gone stays `in_progress`, until another server, or the same one, takes it up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from whisper_server.core.errors import JobNotFound

Status: TypeAlias = Literal[
    "validating", "in_progress", "completed", "failed", "expired", "cancelling", "cancelled"
]
STATUSES: tuple[Status, ...] = get_args(Status)
ENDED: tuple[Status, ...] = ("completed", "failed", "expired", "cancelled")
UNFINISHED: tuple[Status, ...] = tuple(each for each in STATUSES if each not in ENDED)

LEASE_S = 60.0  # a server that says nothing for so long has lost its jobs
MAX_TAKEN = 3  # times that a job is taken up from a server that ended in the middle, without progress


@dataclass(frozen=True, slots=True)
class OnceKey:
    """By what a request that is sent again is known; both are SHA-256 in hexadecimal."""

    key: str  # of what the client calls it
    request: str  # of all that it asks for, with its file

    @classmethod
    def of(cls, key: str, new: NewJob, data: Iterable[bytes | memoryview]) -> OnceKey:
        """Return that of a request; takes a while for large files."""
        asked = [new.endpoint, new.model, new.request, new.callback_url, new.file_url]
        request = hashlib.sha256(json.dumps(asked).encode())
        for part in data:
            request.update(part)
        return cls(hashlib.sha256(key.encode()).hexdigest(), request.hexdigest())


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a request asks for, checked; texts are JSON of `codec`."""

    endpoint: str  # the path that it was sent to
    model: str  # as the client names it
    request: str  # parameters, format and limits of cues
    seconds_total: float | None  # as the header claims; None: it says nothing, or is not there yet
    upload_bytes: int
    callback_url: str | None = None
    file_url: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a job; times are seconds since 1970, by the clock of the database."""

    id: str
    endpoint: str
    model: str
    request: str
    status: Status
    created_at: float
    in_progress_at: float | None  # when it was first taken up
    cancelling_at: float | None
    ended_at: float | None
    seconds_total: float | None
    seconds_done: float
    resumed_at: float | None  # when it was last taken up, and how far it was by then: for the time left
    resumed_s: float
    n_segments: int
    upload_bytes: int
    result_bytes: int
    error: str | None  # JSON of the error that it failed with
    outcome: str | None  # JSON of what a transcript has beside its segments
    owner: str | None
    lease_until: float | None
    taken: int  # times that it was taken up since it last made progress
    next_try_at: float
    file_url: str | None
    callback_url: str | None
    callback_attempts: int
    callback_next_at: float | None  # None: none is due

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    @property
    def is_left_too_often(self) -> bool:
        """Whether servers have ended again and again while they were at the same place of it."""
        return self.taken >= MAX_TAKEN

    def seconds_left(self, now_s: float) -> float | None:
        """Return the time until it ends at its speed so far; None where that cannot be told."""
        if self.has_ended:
            return 0.0
        gained_s = self.seconds_done - self.resumed_s
        if self.owner is None or self.resumed_at is None or self.seconds_total is None or gained_s <= 0:
            return None
        per_second = max(0.0, now_s - self.resumed_at) / gained_s
        return max(0.0, self.seconds_total - self.seconds_done) * per_second


def no_such_job() -> JobNotFound:
    """Return the error for a name that is none of a job, or none any more."""
    return JobNotFound("There is no such job; finished ones are removed after a while.")


def is_job_id(text: str) -> bool:
    """Tell whether a text can be the name of a job; no other is looked up."""
    return text.startswith("job_") and text[4:].isalnum() and text.isascii() and len(text) <= 64
