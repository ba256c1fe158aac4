"""Tells others of the end of jobs: one signed POST per job, as Standard Webhooks have it, until it is taken.

The id stays the same for all attempts, so that a receiver can tell a second delivery of the same event.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from whisper_server.services.jobs.codec import error_of
from whisper_server.services.jobs.outside import NoConnection, NotAllowed, OutsideHosts, call

if TYPE_CHECKING:
    from whisper_server.services.jobs.states import Job

TIMEOUT_S = 15.0
# From one attempt to the next; after the last one it is given up: about a day.
DELAYS_S = (5.0, 60.0, 600.0, 3600.0, 3 * 3600.0, 6 * 3600.0, 14 * 3600.0)
GONE = 410  # a receiver says with it that it wants no more

Outcome = Literal["delivered", "retried", "given_up"]

log = logging.getLogger(__name__)


async def deliver(job: Job, hosts: OutsideHosts, secret: str) -> tuple[Outcome, float | None]:
    """Make one attempt; return what came of it, and the seconds until the next one, None for none."""
    try:
        status = await _post(job, hosts, secret)
    except NotAllowed as error:
        log.warning("the callback of job %s is given up: %s", job.id, error)
        return "given_up", None
    except NoConnection as error:
        log.warning("the callback of job %s fails: %s", job.id, error)
        status = 0
    if 200 <= status < 300:
        return "delivered", None
    if status == GONE or job.callback_attempts > len(DELAYS_S):
        return "given_up", None
    return "retried", DELAYS_S[job.callback_attempts - 1]


async def _post(job: Job, hosts: OutsideHosts, secret: str) -> int:
    """Send the event; return the status of the reply."""
    from standardwebhooks import Webhook  # noqa: PLC0415  (with the first callback)

    body = event_of(job)
    now = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "webhook-id": job.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(job.id, now, body),
    }
    sent = body.encode()
    assert job.callback_url is not None
    async with call(
        hosts, "POST", job.callback_url, headers=headers, timeout_s=TIMEOUT_S, content=sent
    ) as reply:
        return reply.status_code


def event_of(job: Job) -> str:
    """Return the event as JSON; what was said is fetched with the job's id and a key."""
    ended = datetime.fromtimestamp(job.ended_at or 0.0, UTC)
    data = {
        "id": job.id,
        "object": "transcription.job",
        "endpoint": job.endpoint,
        "model": job.model,
        "status": job.status,
        "seconds_total": job.seconds_total,
        "error": None if job.error is None else error_of(job.error),
    }
    return json.dumps({"type": f"job.{job.status}", "timestamp": ended.isoformat(), "data": data})
