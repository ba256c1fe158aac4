"""Recordings whose speakers are told apart by voice: a transcription, and beside it a diarizer.

Owns how the two run beside each other: the diarizer works on the pool while the model decodes, and neither
reads on where the other is far behind. Must not know how voices are told apart (`speakers`) nor how sound
becomes text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from whisper_server.core.types import SAMPLE_RATE, AudioInfo, Segment, Transcript, Turn
from whisper_server.services.speakers.words import with_speakers
from whisper_server.services.transcription import SampleStream, SegmentSource, Transcription

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from whisper_server.core.types import Samples
    from whisper_server.services.speakers.diarizer import Diarizer
    from whisper_server.services.speakers.loaded import SpeakerNetworks
    from whisper_server.services.work_pool import WorkPool

STEP_S = 5.0  # of sound that the diarizer takes at a time, while others wait for the thread
AHEAD_S = 60.0  # that the text may be ahead of the diarizer


class Overheard(SampleStream):
    """The samples of a recording on their way to text; a copy of each block is kept until it is taken."""

    def __init__(self, stream: SampleStream) -> None:
        self._stream = stream
        self._blocks: deque[Samples] = deque()  # appended by a thread of the pool, taken by the loop
        self._n_arrived = 0  # samples, counted by the one
        self._n_taken = 0  # samples, counted by the other
        self._loop: asyncio.AbstractEventLoop | None = None
        self.arrived = asyncio.Event()  # a block, or the end
        self.taken = asyncio.Event()
        self.is_over = False
        self._is_left = False

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself."""
        return self._stream.info

    @property
    def position_s(self) -> float:
        """Seconds read so far."""
        return self._stream.position_s

    @property
    def waiting_s(self) -> float:
        """Seconds that nobody has taken yet."""
        return (self._n_arrived - self._n_taken) / SAMPLE_RATE

    async def ready(self) -> None:
        """Wait until there is room for another block, and until one can be pulled."""
        self._loop = asyncio.get_running_loop()
        while self.waiting_s > AHEAD_S and not self._is_left:
            self.taken.clear()
            await self.taken.wait()
        await self._stream.ready()

    def settle(self) -> Iterator[None]:
        """Find out which of several tracks is heard, a step at a time."""
        return self._stream.settle()

    def blocks(self) -> Iterator[Samples]:
        """Yield the recording, and keep a copy of each block."""
        for block in self._stream.blocks():
            if not self._is_left:
                self._blocks.append(block.copy())
                self._n_arrived += len(block)
                self._tell()
            yield block

    def take(self) -> list[Samples]:
        """Return some of what has arrived, about `STEP_S` of it."""
        found: list[Samples] = []
        n_before = self._n_taken
        while self._blocks and self._n_taken - n_before < STEP_S * SAMPLE_RATE:
            found.append(self._blocks.popleft())
            self._n_taken += len(found[-1])
        self.taken.set()
        return found

    def leave(self) -> None:
        """Keep no more copies: nobody takes them."""
        self._is_left = True
        self._blocks.clear()
        self.taken.set()

    def close(self) -> None:
        """Give everything back; idempotent."""
        self._stream.close()
        self.is_over = True
        self._tell()

    def _tell(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self.arrived.set)


class Listening:
    """A diarizer that hears a recording while it is read. One coroutine at a time has the diarizer."""

    def __init__(self, source: Overheard, diarizer: Diarizer, pool: WorkPool) -> None:
        self._source = source
        self._diarizer = diarizer
        self._pool = pool
        self._lock = asyncio.Lock()
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Hear the recording to its end."""
        source = self._source
        while True:
            is_over = source.is_over  # before the blocks, or the last of them might be missed
            blocks = source.take()
            if blocks:
                async with self._lock:
                    for block in blocks:
                        await self._pool.run(self._diarizer.add, block)
                self._heard.set()
            elif is_over:
                return
            else:
                source.arrived.clear()
                if not source.is_over and not source.waiting_s:
                    await source.arrived.wait()

    async def so_far(self, start_s: float, end_s: float, task: asyncio.Task[None]) -> list[Turn]:
        """Return who speaks in a stretch that has been read, by what is known by now."""
        while self._diarizer.position_s < end_s and self._source.waiting_s and not task.done():
            self._heard.clear()
            heard = asyncio.create_task(self._heard.wait())
            try:
                await asyncio.wait({heard, task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                heard.cancel()
        if task.done():
            task.result()
        return await self.turns(start_s, end_s)

    async def turns(self, start_s: float = 0.0, end_s: float | None = None) -> list[Turn]:
        """Return who speaks when, by all that was heard."""
        async with self._lock:
            return await self._pool.run(_turns, self._diarizer, start_s, end_s)


def _turns(diarizer: Diarizer, start_s: float, end_s: float | None) -> list[Turn]:
    diarizer.catch_up()
    return diarizer.turns(start_s, end_s)


@dataclass(slots=True)
class ByVoice(SegmentSource):
    """One recording on its way to segments with speakers; use it once."""

    transcription: Transcription
    audio: Overheard
    shows_words: bool
    lease: Callable[[], AbstractAsyncContextManager[SpeakerNetworks]]
    diarizer_of: Callable[[SpeakerNetworks], Diarizer]
    pool: WorkPool
    on_window: Callable[[float], None] | None = field(default=None, init=False)
    on_read: Callable[[], None] | None = field(default=None, init=False)

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself."""
        return self.transcription.info

    @property
    def duration_s(self) -> float:
        """Seconds of the file read so far; all of it once the segments are exhausted."""
        return self.transcription.duration_s

    @property
    def windows_done(self) -> int:
        """Windows decoded so far."""
        return self.transcription.windows_done

    def transcript(self, found: tuple[Segment, ...]) -> Transcript:
        """Return the transcript made of these segments."""
        return replace(self.transcription.transcript(found), shows_words=self.shows_words)

    async def segments(self) -> AsyncGenerator[Segment, None]:
        """Produce segments as soon as they are known, with the speakers by what was heard until then.

        Run it under `contextlib.aclosing`. Raises what `Transcription.segments` does.
        """
        async with self._listening() as (listening, task), self._produced() as produced:
            async for segment in produced:
                turns = await listening.so_far(segment.start_s, segment.end_s, task)
                for part in with_speakers([segment], turns):
                    yield part

    async def collect(self) -> Transcript:
        """Return the whole transcript, with speakers by all that was heard; raises what `segments` does."""
        async with self._listening() as (listening, task), self._produced() as produced:
            found = [segment async for segment in produced]
            await task
            turns = await listening.turns()
        return self.transcript(tuple(await self.pool.run(with_speakers, found, turns)))

    @contextlib.asynccontextmanager
    async def _produced(self) -> AsyncIterator[AsyncGenerator[Segment, None]]:
        """Run the transcription, which tells its progress as ours."""
        self.transcription.on_window, self.transcription.on_read = self.on_window, self.on_read
        async with contextlib.aclosing(self.transcription.segments()) as produced:
            yield produced

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[tuple[Listening, asyncio.Task[None]]]:
        """Run the diarizer beside the block, and end it with that; its error ends the transcription."""
        try:
            async with self.lease() as networks:
                listening = Listening(self.audio, self.diarizer_of(networks), self.pool)
                task = asyncio.create_task(listening.run())
                task.add_done_callback(lambda _: self.audio.leave())
                try:
                    yield listening, task
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
        finally:
            self.audio.close()
