"""Takes jobs while there is room for more, sends the callbacks that are due, and tidies up.

Its loop begins with the first job. It looks at the store now and then, because other servers may have put
something there, or left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import Unavailable
from whisper_server.core.settings.jobs import job_folder
from whisper_server.services.jobs.outside import OutsideHosts

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.core.events import Events
    from whisper_server.core.shutdown import Shutdown
    from whisper_server.services.jobs.opened import Opened
    from whisper_server.services.jobs.states import Job
    from whisper_server.services.jobs.work import JobRun
    from whisper_server.services.model_files.catalog import Catalog
    from whisper_server.services.transcriber import Transcriber

POLL_S = 5.0  # between two looks for jobs that other servers took or left
SWEEP_S = 60.0  # between two looks for what is to be removed
CALLS_AT_ONCE = 4
HOLD_CALL_S = 120.0  # for which a callback is this server's: longer than an attempt may take

log = logging.getLogger(__name__)


class JobRunner:
    """The jobs that this server is at; for the event loop."""

    def __init__(
        self,
        settings: Settings,
        transcriber: Transcriber,
        catalog: Catalog,
        events: Events,
        shutdown: Shutdown,
        *,
        opened: Callable[[], Awaitable[Opened]],
        in_thread: Callable[..., Awaitable[Any]],
        tell: Callable[[str], None],
    ) -> None:
        """Take `opened`, which opens the store or raises `Unavailable`; `tell` is told of what changes."""
        self._settings = settings
        self._transcriber = transcriber
        self._catalog = catalog
        self._events = events
        self._shutdown = shutdown
        self._open = opened
        self._in_thread = in_thread
        self._tell = tell
        self._callback_hosts = OutsideHosts(settings.callback_hosts)
        self._file_hosts = OutsideHosts(settings.file_url_hosts)
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._running: dict[str, tuple[JobRun, asyncio.Task[None]]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many jobs this server is at."""
        return len(self._running)

    def begin(self) -> None:
        """Look for jobs now, and from now on."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._run())
        self._wake.set()

    def look(self, job_id: str) -> None:
        """Look at once whether a job is cancelled that this server may be at."""
        if job_id in self._running:
            self._running[job_id][0].look()

    def drain(self) -> None:
        """Take up nothing new, and give back what is running: whoever comes next goes on with it."""
        self._wake.set()
        for task in self._tasks():
            if not task.cancelling():  # a second one would break off what the first one has begun to say
                task.cancel()

    async def close(self) -> None:
        """End everything; returns when it has."""
        self.drain()
        tasks = self._tasks()
        if self._loop is not None:
            self._loop.cancel()
            tasks.append(self._loop)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*(task for _, task in self._running.values()), *self._calls]

    async def _run(self) -> None:
        """Go round until the server is to end; what fails is logged and tried again."""
        swept_s = -SWEEP_S
        while not self._shutdown.is_draining:
            self._wake.clear()
            try:
                opened = await self._open()
                if time.monotonic() - swept_s >= SWEEP_S:
                    swept_s = time.monotonic()
                    await self._sweep(opened)
                await self._take(opened)
                await self._call_back(opened)
            except Unavailable:
                pass  # whoever raised it has logged it
            except Exception as error:  # noqa: BLE001  (the next round may do better)
                log.warning("the job store failed: %s", (str(error) or type(error).__name__).splitlines()[0])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def _sweep(self, opened: Opened) -> None:
        settings = self._settings
        expired = await self._in_thread(opened.sweep, settings.job_keep_hours * 3600.0, settings.job_bytes)
        for job_id in expired:
            self._events.job_ended("expired")
            self._tell(job_id)

    async def _take(self, opened: Opened) -> None:
        """Take as many jobs as may run at once."""
        from whisper_server.services.jobs.work import JobRun, JobTools  # noqa: PLC0415  (with the first job)

        while len(self._running) < self._settings.jobs_at_once and not self._shutdown.is_draining:
            job: Job | None = await self._in_thread(opened.claim)
            if job is None:
                return
            tools = JobTools(
                opened.store,
                opened.uploads,
                opened.owners.name,
                self._transcriber,
                self._catalog,
                self._events,
                self._in_thread,
                self._tell,
                partial(self._fetch, opened),
            )
            run = JobRun(job, tools)
            task = asyncio.create_task(run.run())
            self._running[job.id] = run, task
            task.add_done_callback(partial(self._ended, job.id))
            log.info("job %s %s", job.id, "goes on" if job.resumed_s else "begins")

    def _ended(self, job_id: str, _task: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        self._wake.set()

    async def _fetch(self, opened: Opened, job: Job) -> int:
        from whisper_server.services.jobs.fetching import fetch  # noqa: PLC0415

        return await fetch(
            job,
            self._file_hosts,
            opened.uploads,
            max_bytes=self._settings.max_audio_bytes,
            timeout_s=self._settings.file_url_timeout_s,
            folder=job_folder(self._settings.cache_dir),
            in_thread=self._in_thread,
        )

    async def _call_back(self, opened: Opened) -> None:
        """Send callbacks that are due, a few at once."""
        if self._callback_hosts.is_empty:  # those of other servers' jobs are theirs
            return
        while len(self._calls) < CALLS_AT_ONCE and not self._shutdown.is_draining:
            job: Job | None = await self._in_thread(opened.store.take_callback, HOLD_CALL_S)
            if job is None:
                return
            task = asyncio.create_task(self._deliver(opened, job))
            self._calls.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a callback failed", exc_info=task.exception())

    async def _deliver(self, opened: Opened, job: Job) -> None:
        from whisper_server.services.jobs.callbacks import deliver  # noqa: PLC0415

        outcome, delay_s = await deliver(job, self._callback_hosts, self._settings.callback_secret)
        await self._in_thread(opened.store.put_callback, job.id, delay_s)
        self._events.callback_sent(outcome)
