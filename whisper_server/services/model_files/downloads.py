"""Downloads that somebody asked for without a request that needs the model: one per model at a time.

Each runs on a daemon thread of its own (there are at most as many as the catalog has models), so a hub that
hangs holds up neither a caller nor the end of the process. Whoever asks for the same model meanwhile joins
it; whoever leaves leaves it running. It must not know how a model is brought here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

from whisper_server.core.errors import ShuttingDown, WhisperServerError
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.system.process import start_thread
from whisper_server.services.model_files.failures import as_ours

if TYPE_CHECKING:
    from whisper_server.services.model_files.catalog import ModelSource
    from whisper_server.services.model_files.hub.hub_progress import OnProgress

log = logging.getLogger(__name__)


class Pull:
    """One download on its way, and the conversion after it."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.outcome: Future[None] = Future()  # answered once; nobody can cancel it
        self.outcome.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._bytes = (0, 0)  # done, in all; 0 in all: not known yet, or nothing to download
        self._wake: set[Callable[[], None]] = set()
        self.outcome.add_done_callback(lambda _: self._tell())

    def arrived(self, done_bytes: int, total_bytes: int) -> None:
        """Take how far it is; raises `ShuttingDown` where nobody waits for it any more."""
        if self.outcome.done():
            raise ShuttingDown("The server is shutting down.")
        self._bytes = (done_bytes, total_bytes)
        self._tell()

    async def progress(self) -> AsyncGenerator[tuple[int, int], None]:
        """Yield (bytes done, bytes in all) when they have changed, and end with the pull.

        Who asks slowly gets the newest only. Raises what ended the pull.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._wake.add(wake)
        try:
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
        finally:
            with self._lock:
                self._wake.discard(wake)

    def resolve(self, error: WhisperServerError | None) -> None:
        """Answer everybody who waits; a second answer (the end and a shutdown may race) is dropped."""
        with contextlib.suppress(InvalidStateError):
            if error is None:
                self.outcome.set_result(None)
            else:
                self.outcome.set_exception(error)

    def _tell(self) -> None:
        with self._lock:
            waiting = list(self._wake)
        for wake in waiting:
            wake()


class Downloads:
    """What is being pulled. Thread-safe."""

    def __init__(
        self, pull: Callable[[ModelSource, OnProgress], object], shutdown: Shutdown | None = None
    ) -> None:
        """Take `pull`, which blocks and is called on threads of its own."""
        self._pull = pull
        self._lock = threading.Lock()
        self._running: dict[ModelSource, Pull] = {}
        self._shutdown = shutdown or Shutdown()

    def start(self, source: ModelSource) -> Pull:
        """Return the pull of this model, a new one where none is running; does not block.

        Raises:
            ShuttingDown: nothing new begins.
        """
        with self._lock:
            if self._shutdown.is_draining:
                raise ShuttingDown("The server is shutting down.")
            pull = self._running.get(source)
            if pull is None:
                pull = Pull(source)
                start_thread(self._run_pull, pull)
                self._running[source] = pull
            return pull

    def drain(self) -> None:
        """Begin nothing new, answer everybody who waits, and let downloads end with their next bytes.

        Idempotent; does not block. What has arrived stays on the disk, to be gone on with.
        """
        self._shutdown.drain()
        with self._lock:
            pulls = list(self._running.values())
        for pull in pulls:
            pull.resolve(ShuttingDown("The server is shutting down."))

    def _run_pull(self, pull: Pull) -> None:
        error: WhisperServerError | None = None
        try:
            self._pull(pull.source, pull.arrived)
        except BaseException as raised:  # noqa: BLE001  (whatever happened, those who wait get an answer)
            error = as_ours(raised, pull.source.name, "pull", log)
        with self._lock:
            del self._running[pull.source]
        pull.resolve(error)
