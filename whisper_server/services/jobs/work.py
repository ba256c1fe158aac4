"""One job on its way through the pipeline, from the moment at which this server has its lease.

The pipeline runs from the beginning of the file each time, over a memory of what the model said of windows:
so a job that is taken up decodes the first window that is not stored, and everything that follows from
earlier ones (the language, the prompt, what was left undone) is what it would have been.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from whisper_server.core.errors import EngineFailure, ShuttingDown, Unavailable, WhisperServerError
from whisper_server.services.by_voice import ByVoice
from whisper_server.services.jobs import codec
from whisper_server.services.jobs.states import LEASE_S
from whisper_server.services.jobs.store import LeaseLost, Progress

if TYPE_CHECKING:
    from whisper_server.core.events import Events
    from whisper_server.core.types import AudioInfo, Decoded, Segment, Transcript
    from whisper_server.services.jobs.states import Job, Status
    from whisper_server.services.jobs.store import JobStore
    from whisper_server.services.jobs.uploads import Uploads
    from whisper_server.services.model_files.catalog import Catalog
    from whisper_server.services.transcriber import Transcriber
    from whisper_server.services.transcription import SegmentSource

RENEW_S = LEASE_S / 4
RETRY_S = 30.0  # after what may pass, as a model that cannot be had

T = TypeVar("T")
InThread = Callable[..., Awaitable[Any]]  # runs a function of the store, which blocks

log = logging.getLogger(__name__)


class _GivesWay(Exception):
    """A request waits for room for its model, which this job's model may take up."""


class _Cancelled(Exception):
    """A client has cancelled the job."""


class WindowMemory:
    """What was said of the windows of a job, and what is new of it; thread-safe."""

    def __init__(self, stored: Mapping[str, str]) -> None:
        """Take what is stored: key -> JSON."""
        self._stored = stored
        self._new: deque[tuple[str, Decoded]] = deque()

    def recall(self, key: str) -> Decoded | None:
        """Return what was said of a window, if it is stored."""
        text = self._stored.get(key)
        return None if text is None else codec.decoded_of(text)

    def note(self, key: str, decoded: Decoded) -> None:
        """Take what was said of a window."""
        self._new.append((key, decoded))

    def take_new(self) -> list[tuple[str, str]]:
        """Return what is to be stored, once."""
        found = []
        while self._new:
            key, decoded = self._new.popleft()
            found.append((key, codec.decoded_text(decoded)))
        return found


@dataclass(slots=True)
class JobTools:
    """What all jobs of this server work with."""

    store: JobStore
    uploads: Uploads
    owner: str
    transcriber: Transcriber
    catalog: Catalog
    events: Events
    in_thread: InThread
    on_change: Callable[[str], None]  # is told the id of a job of which something new is stored
    fetch: Callable[[Job], Awaitable[int]]  # brings the upload of a job that names it by a URL


@dataclass(slots=True)
class JobRun:
    """A job that this server has; use it once."""

    job: Job
    tools: JobTools
    _memory: WindowMemory = field(default_factory=lambda: WindowMemory({}), init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _done_s: float = field(default=0.0, init=False)
    _total_s: float | None = field(default=None, init=False)
    _n_stored: int = field(default=0, init=False)  # segments in the store that are those of this run
    _new: list[tuple[str, str]] = field(default_factory=list, init=False)

    def look(self) -> None:
        """Look at once whether the job is cancelled."""
        self._changed.set()

    async def run(self) -> None:
        """Do the job, or give it back; raises nothing but a cancellation, before which it is given back."""
        job, tools = self.job, self.tools
        try:
            await self._work()
        except asyncio.CancelledError:
            await self._quietly(tools.store.release, job.id, tools.owner)
            raise
        except _Cancelled:
            await self._finish("cancelled")
        except LeaseLost:
            log.warning("job %s is not this server's any more", job.id)
        except _GivesWay:
            log.info("job %s gives way to a request that waits for room for its model", job.id)
            await self._quietly(tools.store.release, job.id, tools.owner, RETRY_S)
        except ShuttingDown:
            await self._quietly(tools.store.release, job.id, tools.owner)
        except Unavailable as error:
            if error.retry_helps:
                log.warning("job %s is tried again later: %s", job.id, error)
                await self._quietly(tools.store.release, job.id, tools.owner, RETRY_S)
            else:
                await self._fail(error)
        except WhisperServerError as error:
            await self._fail(error)
        except SQLAlchemyError:
            log.exception("job %s cannot be stored; it is taken up again once its lease is over", job.id)
        except Exception:
            log.exception("job %s failed", job.id)
            await self._fail(WhisperServerError("The server failed on this job; its log says why."))

    async def _work(self) -> None:
        """Transcribe and store at the same time; raises whatever ends that early."""
        tools, started = self.tools, time.monotonic()
        if self.job.is_left_too_often:
            raise EngineFailure(
                f"The server ended {self.job.taken} times while it was at the same place of this file."
            )
        work = asyncio.create_task(self._transcribe())
        try:
            while not work.done():
                await self._wait(work)
                await self._save()
                if tools.transcriber.is_room_wanted():
                    raise _GivesWay
            transcript = await work
            await self._save(is_last=True)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        tools.events.audio_transcribed(transcript.duration_s, time.monotonic() - started)
        outcome = await tools.in_thread(codec.outcome_text, transcript)
        await self._finish("completed", outcome=outcome)

    async def _wait(self, work: asyncio.Task[Transcript]) -> None:
        """Wait until there is something to store, or the lease is to be renewed."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({work, changed}, timeout=RENEW_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            await asyncio.gather(changed, return_exceptions=True)
        self._changed.clear()

    async def _save(self, *, is_last: bool = False) -> None:
        new, self._new = self._new, []
        windows = await self.tools.in_thread(self._memory.take_new)
        progress = Progress(self._done_s, self._total_s, self._n_stored, new, windows, is_last)
        job = await self.tools.in_thread(
            self.tools.store.save, self.job.id, self.tools.owner, LEASE_S, progress
        )
        self._n_stored += len(new)
        self.tools.on_change(self.job.id)
        if job.status == "cancelling":
            raise _Cancelled

    async def _transcribe(self) -> Transcript:
        """Run the pipeline over the upload."""
        tools, job = self.tools, self.job
        self._memory = WindowMemory(await tools.in_thread(tools.store.windows, job.id))
        request = codec.request_of(job.request, tools.catalog.resolve(job.model))
        # With the times of words the result can be had in every format; they do not change the text.
        params = replace(request.params, priority="background", word_timestamps=True)
        if job.file_url and not await tools.in_thread(tools.uploads.has, job.id):
            size = await tools.fetch(job)
            await tools.in_thread(tools.store.uploaded, job.id, tools.owner, size)
        async with self._upload() as file:
            source = await tools.transcriber.open(file, params, self._admit, memory=self._memory)
            source.on_window = self._note
            try:
                return await self._collect(source)
            finally:
                tools.events.audio_read(source.duration_s)

    async def _collect(self, source: SegmentSource) -> Transcript:
        stored = await self.tools.in_thread(self.tools.store.segments, self.job.id)
        found: list[Segment] = []
        # Which voice is whose is surest when all was heard.
        produced = _at_the_end(source) if isinstance(source, ByVoice) else source.segments()
        async with contextlib.aclosing(produced) as segments:
            async for segment in segments:
                text, number = codec.segment_text(segment), len(found)
                is_next = self._n_stored == number and not self._new
                is_stored = is_next and number < len(stored) and stored[number] == text
                found.append(segment)
                if is_stored:
                    self._n_stored += 1
                else:
                    self._new.append((segment.text, text))
                    self._changed.set()
        self._total_s = self._done_s = source.duration_s
        return source.transcript(tuple(found))

    def _admit(self, info: AudioInfo) -> None:
        self._total_s = info.header_duration_s

    def _note(self, done_s: float) -> None:
        self._done_s = max(self._done_s, done_s)
        self._changed.set()

    @contextlib.asynccontextmanager
    async def _upload(self) -> AsyncIterator[Path]:
        """Lend the upload as a file."""
        with contextlib.ExitStack() as stack:
            lent = self.tools.uploads.lend(self.job.id)
            try:
                file: Path = await self.tools.in_thread(stack.enter_context, lent)
            except FileNotFoundError as error:
                raise EngineFailure("The upload is not on the server's disk any more.") from error
            yield file

    async def _fail(self, error: WhisperServerError) -> None:
        log.info("job %s failed: %s", self.job.id, type(error).__name__)
        self.tools.events.request_failed(type(error).__name__)
        await self._finish("failed", error=codec.error_text(error))

    async def _finish(self, status: Status, **values: str) -> None:
        tools, job = self.tools, self.job

        def finish() -> bool:
            tools.store.finish(job.id, tools.owner, status, **values)
            tools.events.job_ended(status)
            return True

        if await self._quietly(finish):
            await self._quietly(tools.uploads.remove, job.id)
            log.info("job %s: %s", job.id, status)

    async def _quietly(self, function: Callable[..., T], *args: object, **named: object) -> T | None:
        """Say something to the store, whose failure changes nothing here; a cancellation waits for it."""
        said = asyncio.ensure_future(self.tools.in_thread(function, *args, **named))
        try:
            result: T = await asyncio.shield(said)
        except (LeaseLost, OSError, SQLAlchemyError) as error:
            log.warning("job %s: %s", self.job.id, str(error).splitlines()[0])
            return None
        finally:
            self.tools.on_change(self.job.id)
        return result


async def _at_the_end(source: SegmentSource) -> AsyncGenerator[Segment, None]:
    """Produce the segments when all of them are known."""
    for segment in (await source.collect()).segments:
        yield segment
