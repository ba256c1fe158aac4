"""Downloads that a client asked for without a request that needs the model: one per model at a time.

Each runs on a daemon thread of its own (there are at most as many as the catalog has models), so a hub that
hangs holds up neither a caller nor the end of the process. A second request for the same model joins the
download; a client that disconnects leaves it running. It must not know how a model is prepared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

from whisper_server.core.errors import ShuttingDown, WhisperServerError
from whisper_server.core.shutdown import SHUTTING_DOWN, Shutdown
from whisper_server.core.system.process import check_threads, start_thread
from whisper_server.services.model_files.failures import as_ours

if TYPE_CHECKING:
    from whisper_server.core.types import ModelSource
    from whisper_server.services.model_files.hub.fetch import OnProgress

log = logging.getLogger(__name__)


class Download:
    """The download of one model, and the conversion after it. Thread-safe."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.outcome: Future[None] = Future()  # answered once; it cannot be cancelled
        self.outcome.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._bytes = (0, 0)  # done, in all; 0 in all: not known yet, or nothing to download
        self._listeners: set[Callable[[], None]] = set()
        self.outcome.add_done_callback(lambda _: self._notify())

    def arrived(self, done_bytes: int, total_bytes: int) -> None:
        """Take the progress; raises `ShuttingDown` where the outcome was answered by a shutdown."""
        if self.outcome.done():
            raise ShuttingDown(SHUTTING_DOWN)
        self._bytes = (done_bytes, total_bytes)
        self._notify()

    async def wait(self) -> None:
        """Wait for the end without blocking the event loop. Raises what ended the download."""
        await asyncio.wrap_future(self.outcome)

    async def progress(self) -> AsyncGenerator[tuple[int, int], None]:
        """Yield (bytes done, bytes in all) when they have changed, and end with the download.

        A slow reader gets the newest values only. Raises what ended the download.
        """
        with self._changes() as changed:
            seen = (0, 0)
            while True:
                is_done = self.outcome.done()  # before the bytes, or the last of them might be missed
                if self._bytes != seen:
                    seen = self._bytes
                    yield seen
                if is_done:
                    break
                await changed.wait()
                changed.clear()
            self.outcome.result()

    @property
    def listeners(self) -> int:
        """How many read the progress."""
        return len(self._listeners)

    def resolve(self, error: WhisperServerError | None) -> None:
        """Answer all that wait; a second answer (the end and a shutdown may race) is dropped."""
        with contextlib.suppress(InvalidStateError):
            if error is None:
                self.outcome.set_result(None)
            else:
                self.outcome.set_exception(error)

    @contextlib.contextmanager
    def _changes(self) -> Iterator[asyncio.Event]:
        """Have an event of the running loop set with every change."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._listeners.add(wake)
        try:
            yield changed
        finally:
            with self._lock:
                self._listeners.discard(wake)

    def _notify(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for wake in listeners:
            wake()


class Downloads:
    """The downloads that are running. Thread-safe."""

    def __init__(
        self, prepare: Callable[[ModelSource, OnProgress], object], shutdown: Shutdown | None = None
    ) -> None:
        """Take `prepare`, which blocks and is called on threads of its own."""
        self._prepare = prepare
        self._lock = threading.Lock()
        self._running: dict[ModelSource, Download] = {}
        self._shutdown = shutdown or Shutdown()

    def start(self, source: ModelSource) -> Download:
        """Return the download of this model, a new one where none is running; does not block.

        Raises:
            ShuttingDown: nothing new begins.
            ModelUnavailable: no thread can be started.
        """
        with self._lock:
            if self._shutdown.is_draining:
                raise ShuttingDown(SHUTTING_DOWN)
            download = self._running.get(source)
            if download is None:
                try:
                    check_threads()
                except RuntimeError as error:
                    raise as_ours(error, source.name, "prepare", log) from error
                started = Download(source)
                start_thread(self._run_download, started, failed=lambda error: self._end(started, error))
                download = self._running[source] = started
            return download

    def drain(self) -> None:
        """Begin nothing new, answer all that wait, and let downloads end with their next bytes.

        Idempotent; does not block. What has arrived stays on the disk, and the next attempt resumes from it.
        """
        self._shutdown.drain()
        with self._lock:
            downloads = list(self._running.values())
        for download in downloads:
            download.resolve(ShuttingDown(SHUTTING_DOWN))

    def _run_download(self, download: Download) -> None:
        error: BaseException | None = None
        try:
            self._prepare(download.source, download.arrived)
        except BaseException as raised:  # noqa: BLE001  (whatever happened, all that wait get an answer)
            error = raised
        self._end(download, error)

    def _end(self, download: Download, error: BaseException | None) -> None:
        answer = as_ours(error, download.source.name, "prepare", log) if error else None
        with self._lock:
            del self._running[download.source]
        download.resolve(answer)
