"""Jobs on a server: sends a file, watches its job, fetches the text. The one file here that knows HTTP.

A job goes on without this process; its id is all that it takes to fetch the result later.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx2

PATIENCE_S = 120.0  # for a server that is away, as while it is restarted
SUBMIT_PATIENCE_S = 30.0  # where nothing has been begun yet
RETRY_S = 1.0
TIMEOUT = httpx2.Timeout(60.0, write=300.0, read=300.0)

OnProgress = Callable[[float, float | None], None]  # seconds done, and in all


class RemoteFailed(Exception):
    """The server refused, or the job has no result; the message is for a person."""


class _Away(Exception):
    """The server cannot be reached now."""


class _NeverReached(_Away):
    """No server answers at its address."""


class RemoteServer:
    """A server that takes jobs; a context manager."""

    def __init__(self, url: str, api_key: str) -> None:
        """Take the server's address, with or without `/v1`; raises `RemoteFailed` where it is none."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        base = url.rstrip("/").removesuffix("/v1") + "/v1"
        try:
            self._client = httpx2.Client(base_url=base, headers=headers, timeout=TIMEOUT)
        except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
            raise RemoteFailed(f"{url} is no address of a server") from error

    def __enter__(self) -> RemoteServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def submit(self, task: str, file: BinaryIO, fields: Mapping[str, Any]) -> str:
        """Send a file as a job; return the job's id.

        Raises:
            RemoteFailed: the server does not take it, or cannot be reached.
        """
        route = "translations" if task == "translate" else "transcriptions"
        data = {name: value for name, value in fields.items() if value not in (None, "", [])}
        data["background"] = "true"
        headers = {"idempotency-key": secrets.token_hex(16)}  # one job, however often it is sent
        began_s, was_reached = time.monotonic(), False
        while True:
            try:
                files = {"file": ("audio", file)}
                reply = self._asked("POST", f"audio/{route}", data=data, files=files, headers=headers)
                return str(reply.json()["id"])
            except _Away as error:
                was_reached = was_reached or not isinstance(error, _NeverReached)
                is_late = time.monotonic() - began_s > SUBMIT_PATIENCE_S
                if is_late or not was_reached or not file.seekable():
                    raise RemoteFailed(str(error)) from error
            time.sleep(RETRY_S)
            file.seek(0)

    def watch(self, job_id: str, on_progress: OnProgress) -> None:
        """Return when the job is completed; a server that is away for a while is waited for.

        Raises:
            RemoteFailed: it will never be completed, there is no such job, or the server stays away.
        """
        seen, last_heard_s = "", time.monotonic()
        while True:
            try:
                for number, event in self._events(job_id, seen):
                    last_heard_s, seen = time.monotonic(), number or seen
                    job = event.get("job")
                    if job is None:
                        continue
                    on_progress(job["seconds_done"], job.get("seconds_total"))
                    if job["status"] == "completed":
                        return
                    if event["type"] != "job.progress":
                        raise RemoteFailed(_end_of(job))
            except _Away as error:
                if time.monotonic() - last_heard_s > PATIENCE_S:
                    raise RemoteFailed(f"{error}; job {job_id} may go on there") from error
            time.sleep(RETRY_S)

    def result(self, job_id: str, query: Mapping[str, Any]) -> str:
        """Return the text of a completed job; raises `RemoteFailed`."""
        asked = {name: value for name, value in query.items() if value not in (None, "", [])}
        try:
            return self._asked("GET", f"jobs/{quote(job_id, safe='')}/result", params=asked).text
        except _Away as error:
            raise RemoteFailed(str(error)) from error

    def _asked(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Return the reply to a request; raises `RemoteFailed`, and `_Away` where it may be sent again."""
        try:
            reply = self._client.request(method, path, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
            raise _NeverReached(_reason(error)) from error
        except httpx2.HTTPError as error:
            raise _Away(_reason(error)) from error
        _check(reply)
        return reply

    def _events(self, job_id: str, seen: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield events with their ids, "" for those without, behind the one that was seen last."""
        headers = {"last-event-id": seen} if seen else {}
        number = ""
        try:
            with self._client.stream(
                "GET", f"jobs/{quote(job_id, safe='')}/events", headers=headers
            ) as reply:
                if reply.status_code != httpx2.codes.OK:
                    reply.read()
                    _check(reply)
                for line in reply.iter_lines():
                    if line.startswith("id: "):
                        number = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        yield number, json.loads(line.removeprefix("data: "))
                        number = ""
        except httpx2.HTTPError as error:
            raise _Away(_reason(error)) from error


def _check(reply: httpx2.Response) -> None:
    """Raise what the error of a reply says, if it is one."""
    if reply.is_success:
        return
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {reply.status_code}"
    if reply.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
        raise _Away(message)
    raise RemoteFailed(message)


def _end_of(job: Mapping[str, Any]) -> str:
    error = job.get("error") or {}
    return error.get("message") or f"the job is {job['status']}"


def _reason(error: httpx2.HTTPError) -> str:
    return f"the server cannot be reached ({type(error).__name__})"
