"""A model that runs on replicas elsewhere, as the pipeline of a front sees it.

Owns the windows of this front that are under way, and that a lost replica costs none of them: a window's text
depends on nothing but the window, so it is asked for again. Knows nothing of how calls travel.

For the event loop, but for `RemoteModel.load` and what the model manager calls.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol

from whisper_server.cluster.messages import ModelCard, WindowCall
from whisper_server.core.errors import EngineFailure, ShuttingDown, Unavailable
from whisper_server.core.shutdown import SHUTTING_DOWN, Phase, Shutdown
from whisper_server.core.types import Decoded, DecodeOptions, Priority, WindowJob
from whisper_server.services.loaded_models.speech_model import notes_of

log = logging.getLogger(__name__)

ATTEMPTS = 4  # at a window whose replica is lost: it may be what ends them
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before the next call, where a replica cannot be reached
PAUSES = 16  # about a minute, in which Ray notices that a machine is gone
MOST_AHEAD = 128  # windows of one request under way, of 1 to 1.5 MB each


class ReplicaLost(Exception):
    """The replica ended before it answered; another one may answer."""


class ReplicaUnreachable(Exception):
    """The replica does not answer, and whether it is lost is not known; soon it is, or it answers again."""


class Replicas(Protocol):
    """All replicas of one model."""

    async def decode(self, call: WindowCall) -> Decoded:
        """Decode a window on one of them; cancelled, it leaves the device there too.

        Raises:
            ReplicaLost: the replica ended.
            ReplicaUnreachable: it may have, or its machine.
            WhisperServerError: what the replica says.
        """
        ...

    @property
    def slots(self) -> int:
        """Windows that all of them decode at once, as far as known; 0 where none is known."""
        ...

    @property
    def streams(self) -> int:
        """Requests of all fronts that the slots are shared among."""
        ...


class RemoteStream:
    """The windows of one request; see `WindowStream`."""

    def __init__(self, scheduler: RemoteScheduler, priority: Priority, *, is_live: bool) -> None:
        self._scheduler = scheduler
        self._priority = priority
        self._is_live = is_live
        self._name = uuid.uuid4().hex
        self._running: set[asyncio.Task[None]] = set()
        self.has_begun = is_live

    @property
    def ahead(self) -> int:
        """How many windows to have ready: two for every slot of the replicas, shared with other streams."""
        return self._scheduler.ahead

    def submit(self, window: WindowJob, options: DecodeOptions) -> Future[Decoded]:
        """Send one window; cancelling its future takes it off the device.

        Raises:
            ShuttingDown: no new work is taken.
        """
        self._scheduler.check_open(self)
        self.has_begun = True
        call = WindowCall(self._scheduler.name, self._name, self._priority, self._is_live, window, options)
        future: Future[Decoded] = Future()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(call, future))
        self._running.add(task)
        self._scheduler.note(self, len(self._running))
        task.add_done_callback(self._running.discard)

        def stop(done: Future[Decoded]) -> None:
            if done.cancelled():
                loop.call_soon_threadsafe(task.cancel)

        future.add_done_callback(stop)
        return future

    def close(self) -> None:
        """Cancel every window that is not answered yet."""
        self._scheduler.leave(self)
        for task in tuple(self._running):
            task.cancel()

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _run(self, call: WindowCall, future: Future[Decoded]) -> None:
        """Answer a future, whatever happens."""
        try:
            decoded = await self._scheduler.decode(call)
        except asyncio.CancelledError:
            future.cancel()
        except Exception as error:  # noqa: BLE001  (whatever it is, the window must be answered)
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(decoded)


class RemoteScheduler:
    """Hands windows to the replicas, which have the queues and the fair order."""

    def __init__(self, name: str, replicas: Replicas, card: ModelCard, shutdown: Shutdown) -> None:
        self.name = name
        self._replicas = replicas
        self._own_slots = card.info.max_batch * card.info.workers
        self._shutdown = shutdown
        self._sharing: set[RemoteStream] = set()

    @property
    def ahead(self) -> int:
        """Windows that a stream should have under way."""
        slots = max(self._replicas.slots, self._own_slots)
        streams = max(self._replicas.streams, self.n_sharing, 1)
        return min(MOST_AHEAD, math.ceil(2 * slots / streams))

    @property
    def n_sharing(self) -> int:
        """Requests of this front that the slots are shared among.

        Those that have had two windows under way at once: where many clips of one window each had a share,
        replicas would be idle beside a long file.
        """
        return len(self._sharing)

    def note(self, stream: RemoteStream, under_way: int) -> None:
        """Take note of how many windows a stream has under way."""
        if under_way > 1:
            self._sharing.add(stream)

    def open_stream(self, priority: Priority = "normal", *, is_live: bool = False) -> RemoteStream:
        """Open a stream for one request; a live one has begun before its first window.

        Raises:
            ShuttingDown: no new work is taken.
        """
        stream = RemoteStream(self, priority, is_live=is_live)
        self.check_open(stream)
        return stream

    def leave(self, stream: RemoteStream) -> None:
        """Forget a stream."""
        self._sharing.discard(stream)

    def check_open(self, stream: RemoteStream) -> None:
        """Check that a stream may have another window; raises `ShuttingDown`."""
        phase = self._shutdown.phase
        if phase is Phase.CLOSED or (phase is Phase.DRAINING and not stream.has_begun):
            raise ShuttingDown(SHUTTING_DOWN)

    async def decode(self, call: WindowCall) -> Decoded:
        """Decode a window, on another replica where one is lost; raises as `Replicas.decode`, but that."""
        lost = pauses = 0
        while lost < ATTEMPTS and pauses < PAUSES:
            try:
                return await self._replicas.decode(call)
            except ReplicaLost as error:
                lost += 1
                log.warning("a replica of %s is lost (attempt %d at a window): %s", self.name, lost, error)
            except ReplicaUnreachable as error:
                log.warning("a replica of %s cannot be reached: %s", self.name, error)
                await asyncio.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**pauses))
                pauses += 1
        if lost < ATTEMPTS:
            raise Unavailable("The model's replicas cannot be reached; try again later.")
        raise EngineFailure(f"{ATTEMPTS} replicas were lost over this audio, one after the other.")


class RemoteModel:
    """A model elsewhere; see `SpeechModel`. It takes no memory here worth counting."""

    memory_bytes = 0
    is_broken = False

    def __init__(self, name: str, replicas: Replicas, card: ModelCard, shutdown: Shutdown) -> None:
        self._replicas = replicas
        self.engine = card
        self._shutdown = Shutdown(shutdown)
        self.scheduler = RemoteScheduler(name, replicas, card, self._shutdown)

    @property
    def is_degraded(self) -> bool:
        """Whether no replica says that it is there."""
        return self._replicas.slots == 0

    @property
    def is_closed(self) -> bool:
        """Whether it was forgotten here."""
        return self._shutdown.phase is Phase.CLOSED

    @property
    def engine_notes(self) -> dict[str, Any]:
        """What runs it and how, on each replica."""
        return notes_of(self.engine.info)

    def drain(self) -> None:
        """Refuse requests that have not begun, now and from now on."""
        self._shutdown.drain()

    def close(self) -> None:
        """Forget it; the replicas keep their own."""
        self._shutdown.close()
