"""The face of jobs: take them, tell of them, do them; opens its database with the first one.

A server that has no job and never had one pays for none: the library of the database is imported on a thread
of this room when a job comes in, or at the start where there is a database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from whisper_server.core.errors import InvalidRequest, JobNotFinished, Unavailable
from whisper_server.core.settings.jobs import job_database, job_folder
from whisper_server.core.system.process import THREAD_PREFIX, check_threads
from whisper_server.services.jobs import codec
from whisper_server.services.jobs.runner import JobRunner
from whisper_server.services.jobs.states import OnceKey, is_job_id, no_such_job

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.core.events import Events
    from whisper_server.core.shutdown import Shutdown
    from whisper_server.core.types import Transcript
    from whisper_server.services.jobs.opened import Opened
    from whisper_server.services.jobs.states import Job, NewJob, Status
    from whisper_server.services.jobs.store import JobStore
    from whisper_server.services.model_files.catalog import Catalog
    from whisper_server.services.transcriber import Transcriber

WATCH_S = 1.0  # between two looks at a job that another server is at
THREADS = 2

T = TypeVar("T")

log = logging.getLogger(__name__)


class Jobs:
    """The jobs of this server, and of those that share its store; for the event loop."""

    def __init__(
        self,
        settings: Settings,
        transcriber: Transcriber,
        catalog: Catalog,
        events: Events,
        shutdown: Shutdown,
    ) -> None:
        self._settings = settings
        self._events = events
        self._shutdown = shutdown
        self._folder = job_folder(settings.cache_dir)
        self._threads: ThreadPoolExecutor | None = None
        self._opening = asyncio.Lock()
        self._opened: Opened | None = None
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._runner = JobRunner(
            settings,
            transcriber,
            catalog,
            events,
            shutdown,
            opened=self._open,
            in_thread=self._in_thread,
            tell=self._tell,
        )

    @property
    def running(self) -> int:
        """How many jobs this server is at."""
        return self._runner.running

    def start(self) -> None:
        """Take up what is unfinished, where there may be something."""
        if self._may_have_jobs():
            self._runner.begin()

    def _may_have_jobs(self) -> bool:
        """Tell whether there may be a job; the store is not opened for that."""
        settings = self._settings
        if self._opened is not None or not settings.has_jobs:
            return self._opened is not None
        return bool(settings.job_store) or job_database(self._folder).exists()

    def check_taken(self) -> None:
        """Check that jobs are taken here; raises `InvalidRequest`."""
        if not self._settings.has_jobs:
            raise InvalidRequest("This server keeps no jobs (WHISPER_JOB_STORE=none).", param="background")

    async def submit(
        self, new: NewJob, data: Sequence[bytes | memoryview] | None, key: str | None = None
    ) -> Job:
        """Keep a job and its upload, and begin with it when it is its turn.

        The same request with the same `key` makes one job, also where it comes to several servers at once.

        Raises:
            InvalidRequest: the key came with another request.
            Overloaded: there is enough to do.
            ShuttingDown: nothing new is taken.
            Unavailable: it cannot be stored.
        """
        self.check_taken()
        self._shutdown.check_open()
        opened = await self._open()
        from whisper_server.services.jobs.store import JobLimits, new_id  # noqa: PLC0415  (see the module)

        settings = self._settings
        limits = JobLimits(settings.job_limit, float(settings.job_seconds), settings.job_bytes)
        job_id = new_id()
        with self._stored():
            try:
                if data is not None:
                    await self._in_thread(opened.uploads.put, job_id, data)
                once = await self._in_thread(OnceKey.of, key, new, data or ()) if key is not None else None
                job: Job = await self._in_thread(opened.store.create, new, limits, job_id, once)
            except BaseException:
                await self._in_thread(opened.uploads.remove, job_id)
                raise
            if job.id != job_id:
                await self._in_thread(opened.uploads.remove, job_id)
                return job
        self._events.job_submitted()
        self._runner.begin()
        return job

    async def page(self, limit: int, after: str | None, status: Status | None) -> tuple[list[Job], bool]:
        """Return the newest jobs, or those behind `after`, and whether there are more.

        Raises:
            JobNotFound: there is no job `after`.
        """
        if after is not None:
            self._check_there(after)
        if not self._may_have_jobs():
            return [], False
        found: tuple[list[Job], bool] = await self._ask(lambda store: store.page(limit, after, status))
        return found

    async def get(self, job_id: str) -> tuple[Job, str, float]:
        """Return a job, the text so far, and the time by its clock; raises `JobNotFound`."""
        self._check_there(job_id)
        return await self._ask(lambda store: (store.get(job_id), store.text(job_id), store.now()))

    async def now(self) -> float:
        """Return the time by the clock of the store."""
        return await self._ask(lambda store: store.now())

    async def result(self, job_id: str) -> tuple[Job, Transcript]:
        """Return the transcript of a completed job.

        Raises:
            JobNotFound: there is no such job.
            JobNotFinished: it has no result.
        """
        self._check_there(job_id)

        def read(store: JobStore) -> tuple[Job, Transcript]:
            job = store.get(job_id)
            if job.outcome is None:
                _refuse_result(job)
            segments = tuple(codec.segment_of(text) for text in store.segments(job_id))
            return job, codec.transcript_of(job.outcome or "", segments)

        return await self._ask(read)

    async def delete(self, job_id: str) -> tuple[Job, bool]:
        """Cancel a job, or forget one that has ended; return it, and whether it is forgotten.

        Raises:
            JobNotFound: there is no such job.
        """
        self._check_there(job_id)

        def cancel_or_remove(store: JobStore) -> tuple[Job, bool]:
            job = store.get(job_id)
            if job.has_ended:
                store.remove(job_id)
                return job, True
            return store.cancel(job_id), False

        job, is_removed = await self._ask(cancel_or_remove)
        if job.has_ended:
            opened = await self._open()
            await self._in_thread(opened.uploads.remove, job_id)
            if not is_removed:
                self._events.job_ended(job.status)
        self._runner.look(job_id)
        self._tell(job_id)
        return job, is_removed

    async def watch(self, job_id: str, first: int) -> AsyncGenerator[tuple[Job, list[str]], None]:
        """Yield the job when something has changed, with its segments from number `first` on as JSON.

        Ends when the job has, or when the server is to end. Raises `JobNotFound`, also where it is removed.
        """
        self._check_there(job_id)
        with self._changes(job_id) as changed:
            seen: tuple[object, ...] | None = None
            while not self._shutdown.is_draining:
                changed.clear()
                job, new = await self._ask(partial(_news, job_id, first))
                first += len(new)
                state = (job.status, job.seconds_done, job.seconds_total)
                if new or state != seen:
                    seen = state
                    yield job, new
                if job.has_ended:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), WATCH_S)

    def drain(self) -> None:
        """Take up nothing new, give back what is running, and end what tells of jobs."""
        self._runner.drain()
        for waiting in self._watchers.values():
            for changed in waiting:
                changed.set()

    async def close(self) -> None:
        """Give everything back; work has been given back before, or is now."""
        self.drain()
        await self._runner.close()
        if self._opened is not None:
            await self._in_thread(self._opened.close)
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def _ask(self, read: Callable[[JobStore], T]) -> T:
        opened = await self._open()
        with self._stored():
            found: T = await self._in_thread(read, opened.store)
        return found

    @contextlib.contextmanager
    def _stored(self) -> Iterator[None]:
        """Let errors of the database and the disk be ours."""
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  (it is imported already)

        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            log.warning("the job store failed: %s", str(error).splitlines()[0])
            raise Unavailable("The server cannot use its job store now; its log says why.") from error

    async def _open(self) -> Opened:
        async with self._opening:
            if self._opened is None:
                if self._threads is None:
                    check_threads()
                    self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"{THREAD_PREFIX}jobs")
                try:
                    self._opened = await self._in_thread(_open, self._folder, self._settings.job_store)
                except Exception as error:
                    log.warning("the job store cannot be opened: %s", error)
                    raise Unavailable("The server cannot open its job store; its log says why.") from error
        return self._opened

    async def _in_thread(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **named))

    def _check_there(self, job_id: str) -> None:
        """Raise `JobNotFound` where a name can be none of a job."""
        if not (is_job_id(job_id) and self._may_have_jobs()):
            raise no_such_job()

    @contextlib.contextmanager
    def _changes(self, job_id: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        waiting = self._watchers.setdefault(job_id, set())
        waiting.add(changed)
        try:
            yield changed
        finally:
            waiting.discard(changed)
            if not waiting:
                self._watchers.pop(job_id, None)

    def _tell(self, job_id: str) -> None:
        for changed in self._watchers.get(job_id, ()):
            changed.set()


def _open(folder: Path, url: str) -> Opened:
    """Open the store; blocks, also for the import of its library."""
    from whisper_server.services.jobs.opened import open_store  # noqa: PLC0415  (see the module)

    return open_store(folder, url)


def _news(job_id: str, first: int, store: JobStore) -> tuple[Job, list[str]]:
    """Return a job, and its segments from a number on: at least those that it had by then."""
    return store.get(job_id), store.segments(job_id, first)


def _refuse_result(job: Job) -> None:
    """Say why a job has no result."""
    if job.has_ended:
        raise JobNotFinished(f"The job is {job.status} and has no result.", retry_helps=False)
    raise JobNotFinished(f"The job is {job.status}; its result is not there yet.", retry_helps=True)
