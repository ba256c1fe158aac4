"""Files that a request names by a URL: fetched by the job, within the limits of an upload and a time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from whisper_server.core.errors import InvalidRequest, PayloadTooLarge
from whisper_server.services.jobs.outside import NoConnection, NotAllowed, OutsideHosts, call

if TYPE_CHECKING:
    from whisper_server.services.jobs.states import Job
    from whisper_server.services.jobs.uploads import Uploads

PARAM = "file_url"
SILENCE_TIMEOUT_S = 30.0
DELAYS_S = (1.0, 10.0)  # from one attempt to the next, where nobody answers
CHUNK_BYTES = 1 << 20


class _ComesLater(Exception):
    """The sender has a problem that may pass."""


async def fetch(
    job: Job,
    hosts: OutsideHosts,
    uploads: Uploads,
    *,
    max_bytes: int,
    timeout_s: float,
    folder: Path,
    in_thread: Callable[..., Awaitable[Any]],
) -> int:
    """Keep what the job's URL leads to as its upload; return its size in bytes.

    Until it is whole it has no name, in `folder`.

    Raises:
        InvalidRequest: it leads to where this server does not go, or to nothing, or takes too long.
        PayloadTooLarge: it is larger than an upload may be.
    """
    assert job.file_url is not None
    reason = ""
    try:
        async with asyncio.timeout(timeout_s):
            for delay_s in (0.0, *DELAYS_S):
                await asyncio.sleep(delay_s)
                try:
                    with tempfile.TemporaryFile(dir=folder) as file:
                        await _receive(job.file_url, hosts, file, max_bytes, in_thread)
                        size: int = await in_thread(uploads.put, job.id, _chunks(file))
                        return size
                except (NoConnection, _ComesLater) as error:
                    reason = str(error)
    except NotAllowed as error:
        raise _failed(str(error)) from error
    except TimeoutError as error:
        raise _failed(
            f"it was not there within {timeout_s:g} seconds (WHISPER_FILE_URL_TIMEOUT_S)"
        ) from error
    raise _failed(reason)


async def _receive(
    url: str, hosts: OutsideHosts, file: IO[bytes], max_bytes: int, in_thread: Callable[..., Awaitable[Any]]
) -> None:
    async with call(hosts, "GET", url, headers={}, timeout_s=SILENCE_TIMEOUT_S) as reply:
        if reply.status_code >= 500 or reply.status_code == 429:
            raise _ComesLater(f"the answer was {reply.status_code}")
        if reply.status_code != 200:
            raise _failed(f"the answer was {reply.status_code}")
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise _failed("the answer is compressed")
        size = 0
        async for chunk in reply.aiter_raw(CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise PayloadTooLarge(max_bytes, size)
            await in_thread(file.write, chunk)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _failed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The file of file_url cannot be had: {reason}.", param=PARAM)
