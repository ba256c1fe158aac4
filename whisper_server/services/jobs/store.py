"""Jobs in a database: all that is asked of it and said to it. Blocks; thread-safe.

Who works on a job has its lease: a name and a time, by the clock of the database. Everything that it writes
is written under the condition that the lease is still its own, in the same transaction, so that a server
that was suspended for too long changes nothing any more. The tables are in `schema`.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, insert, or_, select, update

from whisper_server.core.errors import InvalidRequest, Overloaded
from whisper_server.services.jobs.removal import make_room, remove_jobs
from whisper_server.services.jobs.schema import (
    give_pages_back,
    jobs,
    keys,
    now_of,
    segments,
    uploads,
    windows,
    writing,
)
from whisper_server.services.jobs.states import (
    ENDED,
    UNFINISHED,
    Job,
    NewJob,
    OnceKey,
    Status,
    no_such_job,
)

CALLBACK_S = 2 * 86_400.0  # for which a job stays whose callback nobody takes
RETRY_AFTER_S = 60  # what a client that is refused hears: jobs take minutes


class LeaseLost(Exception):
    """The job is another server's by now, or nobody's: it was deleted."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How much unfinished work there may be, and how much of everything on the disk."""

    jobs: int
    audio_s: float
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What one save adds."""

    seconds_done: float
    seconds_total: float | None
    first: int = 0  # the number of the first of these segments; those from there on are replaced
    segments: Sequence[tuple[str, str]] = ()  # text, and JSON
    windows: Sequence[tuple[str, str]] = ()  # key, and JSON
    is_last: bool = False  # there are no segments behind these


@dataclass(frozen=True, slots=True)
class Swept:
    """What has become of old jobs, by their ids."""

    expired: list[str]
    removed: list[str]


class JobStore:
    """The jobs of all servers that share a database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def now(self) -> float:
        """Return the seconds since 1970, by the clock of the database."""
        with self._engine.connect() as connection:
            return now_of(connection)

    def create(self, new: NewJob, limits: JobLimits, job_id: str, once: OnceKey | None = None) -> Job:
        """Add a job, and remove the oldest finished ones where there would be too much on the disk.

        Where the request has been here before, return its job, which has another id.

        Raises:
            Overloaded: there is enough to do.
            InvalidRequest: its key is that of another request.
        """
        with writing(self._engine) as connection:
            if once is not None and (before := _made_before(connection, once)) is not None:
                return before
            self._check(connection, new, limits)
            if once is not None:
                connection.execute(insert(keys).values(key=once.key, request=once.request, job=job_id))
            connection.execute(
                insert(jobs).values(
                    id=job_id,
                    endpoint=new.endpoint,
                    model=new.model,
                    request=new.request,
                    status="validating",
                    created_at=now_of(connection),
                    seconds_total=new.seconds_total,
                    upload_bytes=new.upload_bytes,
                    file_url=new.file_url,
                    callback_url=new.callback_url,
                )
            )
            return _get(connection, job_id)

    def _check(self, connection: Connection, new: NewJob, limits: JobLimits) -> None:
        left_s = func.coalesce(jobs.c.seconds_total, jobs.c.seconds_done) - jobs.c.seconds_done
        n_jobs, audio_s, held_bytes = connection.execute(
            select(
                func.count(),
                func.coalesce(func.sum(left_s), 0.0),
                func.coalesce(func.sum(jobs.c.upload_bytes), 0),
            ).where(jobs.c.status.in_(UNFINISHED))
        ).one()
        if n_jobs >= limits.jobs:
            raise _full(f"{limits.jobs} unfinished jobs")
        if audio_s > 0 and audio_s + (new.seconds_total or 0.0) > limits.audio_s:
            raise _full(f"{limits.audio_s:.0f} seconds of audio in unfinished jobs")
        if held_bytes > 0 and held_bytes + new.upload_bytes > limits.disk_bytes:
            raise _full(f"{limits.disk_bytes >> 20} MiB of uploads in unfinished jobs")
        make_room(connection, limits.disk_bytes - new.upload_bytes)

    def get(self, job_id: str) -> Job:
        """Return a job; raises `JobNotFound`."""
        with self._engine.connect() as connection:
            return _get(connection, job_id)

    def page(self, limit: int, after: str | None, status: Status | None) -> tuple[list[Job], bool]:
        """Return the newest jobs, those behind `after` where it is given, and whether there are more.

        Raises:
            JobNotFound: there is no job `after`.
        """
        wanted = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit + 1)
        if status is not None:
            wanted = wanted.where(jobs.c.status == status)
        with self._engine.connect() as connection:
            if after is not None:
                last = _get(connection, after)
                is_older = or_(
                    jobs.c.created_at < last.created_at,
                    and_(jobs.c.created_at == last.created_at, jobs.c.id < last.id),
                )
                wanted = wanted.where(is_older)
            found = [_job(row) for row in connection.execute(wanted)]
        return found[:limit], len(found) > limit

    def text(self, job_id: str) -> str:
        """Return the text so far."""
        wanted = select(segments.c.text).where(segments.c.job == job_id).order_by(segments.c.number)
        with self._engine.connect() as connection:
            return "".join(connection.scalars(wanted)).strip()

    def segments(self, job_id: str, first: int = 0) -> list[str]:
        """Return the JSON of the segments from a number on."""
        wanted = select(segments.c.data).where(segments.c.job == job_id, segments.c.number >= first)
        with self._engine.connect() as connection:
            return list(connection.scalars(wanted.order_by(segments.c.number)))

    def windows(self, job_id: str) -> dict[str, str]:
        """Return what was said of windows: key -> JSON."""
        with self._engine.connect() as connection:
            found = connection.execute(select(windows.c.key, windows.c.data).where(windows.c.job == job_id))
            return {row.key: row.data for row in found}

    def owners(self) -> set[str]:
        """Return who has a lease."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(jobs.c.owner).where(jobs.c.owner.is_not(None)).distinct()))

    def claim(self, owner: str, lease_s: float, dead: Collection[str] = ()) -> Job | None:
        """Take the oldest job that nobody is at, with a lease of so many seconds; None where there is none.

        Leases of the owners in `dead` count as over.
        """
        with writing(self._engine) as connection:
            now = now_of(connection)
            is_free = or_(jobs.c.owner.is_(None), jobs.c.lease_until < now, jobs.c.owner.in_(tuple(dead)))
            job = connection.execute(
                select(jobs)
                .where(jobs.c.status.in_(UNFINISHED), jobs.c.next_try_at <= now, is_free)
                .order_by(jobs.c.created_at, jobs.c.id)
                .limit(1)
            ).one_or_none()
            if job is None:
                return None
            was_left = job.owner is not None  # whoever had it has not given it back
            values = {
                "owner": owner,
                "lease_until": now + lease_s,
                "taken": job.taken + was_left,
                "resumed_at": now,
                "resumed_s": job.seconds_done,
            }
            if job.status == "validating":
                values |= {"status": "in_progress", "in_progress_at": now}
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(**values))
            return _get(connection, job.id)

    def save(self, job_id: str, owner: str, lease_s: float, progress: Progress) -> Job:
        """Store progress and renew the lease; return the job as it is now, which may be `cancelling`.

        Raises:
            LeaseLost: nothing was stored.
        """
        with writing(self._engine) as connection:
            job = self._owned(connection, job_id, owner)
            size = sum(len(data) for _, data in progress.segments)
            _replace_segments(connection, job_id, progress)
            for key, data in progress.windows:
                connection.execute(delete(windows).where(windows.c.job == job_id, windows.c.key == key))
                connection.execute(insert(windows).values(job=job_id, key=key, data=data))
            values: dict[str, Any] = {"lease_until": now_of(connection) + lease_s}
            if progress.seconds_done > job.seconds_done:
                values |= {"seconds_done": progress.seconds_done, "taken": 0}
            if progress.seconds_total is not None:
                values["seconds_total"] = max(progress.seconds_total, progress.seconds_done)
            if progress.segments or progress.is_last:
                values |= {
                    "n_segments": progress.first + len(progress.segments),
                    "result_bytes": jobs.c.result_bytes + size,
                }
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
            return _get(connection, job_id)

    def uploaded(self, job_id: str, owner: str, upload_bytes: int) -> None:
        """Note the size of an upload that came late; raises `LeaseLost`."""
        with writing(self._engine) as connection:
            self._owned(connection, job_id, owner)
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(upload_bytes=upload_bytes))

    def release(self, job_id: str, owner: str, delay_s: float = 0.0) -> None:
        """Give a job back, for anybody to take up after so many seconds; raises `LeaseLost`."""
        with writing(self._engine) as connection:
            job = self._owned(connection, job_id, owner)
            now = now_of(connection)
            values = {"owner": None, "lease_until": None, "next_try_at": now + delay_s if delay_s else 0.0}
            if job.status == "cancelling":
                _end(connection, job, "cancelled", {})
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))

    def finish(
        self, job_id: str, owner: str, status: Status, *, outcome: str | None = None, error: str | None = None
    ) -> Job:
        """End a job whose lease is `owner`'s; raises `LeaseLost`."""
        with writing(self._engine) as connection:
            job = self._owned(connection, job_id, owner)
            values: dict[str, Any] = {"outcome": outcome, "error": error}
            if status == "completed":
                total = float(job.seconds_total or 0.0)
                values["seconds_done"] = max(job.seconds_done, total)
            _end(connection, job, status, values)
            return _get(connection, job_id)

    def cancel(self, job_id: str) -> Job:
        """Cancel an unfinished job: at once where nobody is at it; one that has ended stays as it is."""
        with writing(self._engine) as connection:
            job = _get(connection, job_id)
            if job.status in UNFINISHED:
                if job.owner is None:
                    _end(connection, job, "cancelled", {})
                elif job.status != "cancelling":
                    values = {"status": "cancelling", "cancelling_at": now_of(connection)}
                    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
            return _get(connection, job_id)

    def remove(self, job_id: str) -> None:
        """Forget a job and all that it has left."""
        with writing(self._engine) as connection:
            remove_jobs(connection, [job_id])

    def sweep(self, keep_s: float, disk_bytes: int) -> Swept:
        """Let old unfinished jobs expire, and remove old finished ones.

        Where jobs take more on the disk than they may, the oldest finished ones go before their time.
        """
        with writing(self._engine) as connection:
            limit = now_of(connection) - keep_s
            is_late = and_(jobs.c.status.in_(UNFINISHED), jobs.c.created_at < limit, jobs.c.owner.is_(None))
            late = [_job(row) for row in connection.execute(select(jobs).where(is_late))]
            for job in late:
                _end(connection, job, "expired", {})
            is_told = or_(jobs.c.callback_next_at.is_(None), jobs.c.ended_at < limit - CALLBACK_S)
            is_old = and_(jobs.c.status.in_(ENDED), jobs.c.ended_at < limit, is_told)
            old = list(connection.scalars(select(jobs.c.id).where(is_old)))
            remove_jobs(connection, old)
            removed = old + make_room(connection, disk_bytes)
        if removed:
            give_pages_back(self._engine)
        return Swept([job.id for job in late], removed)

    def take_callback(self, hold_s: float) -> Job | None:
        """Take a callback that is due, so that no other server does for so long; None where there is none."""
        with writing(self._engine) as connection:
            now = now_of(connection)
            wanted = select(jobs.c.id).where(jobs.c.callback_next_at <= now).limit(1)
            job_id = connection.scalar(wanted.order_by(jobs.c.callback_next_at))
            if job_id is None:
                return None
            values = {"callback_next_at": now + hold_s, "callback_attempts": jobs.c.callback_attempts + 1}
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
            return _get(connection, job_id)

    def put_callback(self, job_id: str, delay_s: float | None) -> None:
        """Say when a callback is due again; None: never."""
        with writing(self._engine) as connection:
            next_at = None if delay_s is None else now_of(connection) + delay_s
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(callback_next_at=next_at))

    def existing(self, job_ids: Sequence[str]) -> set[str]:
        """Return which of these jobs have an upload that is still needed."""
        wanted = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(UNFINISHED))
        with self._engine.connect() as connection:
            return set(connection.scalars(wanted))

    def _owned(self, connection: Connection, job_id: str, owner: str) -> Job:
        wanted = select(jobs).where(jobs.c.id == job_id).with_for_update()
        row = connection.execute(wanted).one_or_none()
        if row is None or row.owner != owner or row.status in ENDED:
            raise LeaseLost(job_id)
        return _job(row)


def new_id() -> str:
    """Return the name of a new job, which cannot be guessed."""
    return f"job_{secrets.token_hex(16)}"


def _get(connection: Connection, job_id: str) -> Job:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise no_such_job()
    return _job(row)


def _made_before(connection: Connection, once: OnceKey) -> Job | None:
    """Return the job that this request has made."""
    known = connection.execute(select(keys).where(keys.c.key == once.key)).one_or_none()
    if known is None:
        return None
    if known.request != once.request:
        raise InvalidRequest(
            "This Idempotency-Key came with another request; each needs its own.", param="Idempotency-Key"
        )
    return _get(connection, known.job)


def _job(row: Any) -> Job:
    return Job(**row._mapping)


def _end(connection: Connection, job: Job, status: Status, values: dict[str, Any]) -> None:
    """End a job: what only its work needed is removed, and its callback is due."""
    now = now_of(connection)
    values = {
        **values,
        "status": status,
        "ended_at": now,
        "owner": None,
        "lease_until": None,
        "upload_bytes": 0,
        "callback_next_at": now if job.callback_url else None,
    }
    connection.execute(delete(windows).where(windows.c.job == job.id))
    connection.execute(delete(uploads).where(uploads.c.job == job.id))
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(**values))


def _replace_segments(connection: Connection, job_id: str, progress: Progress) -> None:
    rows = [
        {"job": job_id, "number": progress.first + place, "text": text, "data": data}
        for place, (text, data) in enumerate(progress.segments)
    ]
    if rows or progress.is_last:
        is_behind = and_(segments.c.job == job_id, segments.c.number >= progress.first)
        connection.execute(delete(segments).where(is_behind))
    if rows:
        connection.execute(insert(segments), rows)


def _full(limit: str) -> Overloaded:
    return Overloaded(f"The server takes no more than {limit}. Try again later.", retry_after_s=RETRY_AFTER_S)
