"""Jobs as clients see them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.support.http_requests import URL, form

JOBS = "/v1/jobs"


async def submit(client: httpx.AsyncClient, data: bytes, **fields: Any) -> dict[str, Any]:
    """Send a file as a job; return the job."""
    reply = await client.post(URL, **form(data, background="true", **fields))
    assert reply.status_code == 202, reply.text
    job: dict[str, Any] = reply.json()
    assert reply.headers["location"] == f"{JOBS}/{job['id']}"
    return job


def frames_of(body: str) -> list[tuple[int | None, dict[str, Any]]]:
    """Return the events of a stream, each with its id."""
    found = []
    for frame in body.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.split("\n") if not line.startswith(":") and line)
        if lines:
            event = json.loads(lines["data"])
            assert lines.get("event") == event.get("type")
            found.append((int(lines["id"]) if "id" in lines else None, event))
    return found


async def until_end(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Wait for the end of a job by its events; return the job as the last of them has it."""
    reply = await client.get(f"{JOBS}/{job_id}/events")
    assert reply.status_code == 200, reply.text
    last: dict[str, Any] = frames_of(reply.text)[-1][1]
    return last["job"]


async def result_of(client: httpx.AsyncClient, job_id: str, **query: Any) -> httpx.Response:
    return await client.get(f"{JOBS}/{job_id}/result", params=query)
