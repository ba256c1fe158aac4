"""Jobs that go: all rows of one, and the oldest results where they take too much."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select

from whisper_server.services.jobs.schema import jobs, keys, segments, uploads, windows
from whisper_server.services.jobs.states import ENDED


def make_room(connection: Connection, room_bytes: int) -> list[str]:
    """Remove the oldest finished jobs until the others take no more than this; return their ids."""
    held = jobs.c.upload_bytes + jobs.c.result_bytes
    too_much = int(connection.scalar(select(func.coalesce(func.sum(held), 0))) or 0) - room_bytes
    removed: list[str] = []
    if too_much > 0:
        ended = (
            select(jobs.c.id, held.label("held")).where(jobs.c.status.in_(ENDED)).order_by(jobs.c.ended_at)
        )
        for row in connection.execute(ended).all():
            if too_much <= 0:
                break
            removed.append(row.id)
            too_much -= row.held
        remove_jobs(connection, removed)
    return removed


def remove_jobs(connection: Connection, job_ids: Sequence[str]) -> None:
    """Forget jobs and all that they have left."""
    for table in (segments, windows, uploads, keys):
        connection.execute(delete(table).where(table.c.job.in_(job_ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(job_ids)))
