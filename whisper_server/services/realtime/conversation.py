"""Drives one session: sound through voice detection, turns and drafts through the pipeline, events out.

Owns the order of the work; `session` owns what it means, `turn_decoder` the model. Must not know of sockets:
what comes from the client is an iterator of parsed events, what goes to it a function.

Theory of operation. Two tasks share the session, on one event loop, and neither awaits within a method of
it. `run` takes the client's events in order. `_work` decodes: complete turns first, one after the other,
and in between the open one, as the session wants it; as soon as the turn is complete that is cancelled, or
its text is the turn's. Both send what their step made the session say, before the next step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import EngineFailure, InvalidRequest, WhisperServerError
from whisper_server.core.types import seconds_by_language
from whisper_server.services.realtime.drafts import phrases_of
from whisper_server.services.realtime.session import Session
from whisper_server.services.realtime.sound_input import SoundInput
from whisper_server.services.rendering.formats import logprob_objects

if TYPE_CHECKING:
    from whisper_server.core.events import Events
    from whisper_server.core.types import Transcript
    from whisper_server.services.admission import Slot
    from whisper_server.services.realtime.server_events import Event
    from whisper_server.services.realtime.turn_decoder import Decoder
    from whisper_server.services.realtime.work import Partial, Turn
    from whisper_server.services.work_pool import WorkPool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a conversation works with."""

    decoder: Decoder
    pool: WorkPool
    events: Events
    slot: Slot
    send: Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Early:
    """A decode of the open turn, under way or done."""

    partial: Partial
    decode: asyncio.Task[Transcript | None]


class Conversation:
    """One client's session, from its first event to its end; use it once."""

    def __init__(self, session: Session, means: Means) -> None:
        self._session = session
        self._means = means
        self._input = SoundInput()
        self._has_work = asyncio.Event()
        self._is_over = False  # the client has nothing more to say
        self._sending = asyncio.Lock()  # events leave in the order in which the session made them
        self._latest: _Early | None = None  # the decode of an open turn that was begun last
        self._decoded_s = 0.0  # of committed turns

    async def run(self, incoming: AsyncIterator[Mapping[str, Any] | InvalidRequest]) -> None:
        """Serve until `incoming` ends and every turn has been answered; what it raises ends all at once.

        An `InvalidRequest` among the events stands for one that could not be read.

        Raises:
            Overloaded: there is no room for the client's sound.
        """
        await self._flush()
        tasks = [asyncio.create_task(self._listen(incoming)), asyncio.create_task(self._work())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, incoming: AsyncIterator[Mapping[str, Any] | InvalidRequest]) -> None:
        async for event in incoming:
            await self._take(event)
        self._session.drain()
        self._is_over = True
        await self._flush()

    async def _take(self, event: Mapping[str, Any] | InvalidRequest) -> None:
        if isinstance(event, InvalidRequest):
            self._session.reject(event)
        elif event.get("type") == "input_audio_buffer.append":
            await self._hear(event)
        else:
            self._session.receive(event)
        self._means.slot.hold(self._session.n_bytes)
        await self._flush()

    async def _hear(self, event: Mapping[str, Any]) -> None:
        source = self._session.config.format.pcm()
        try:
            heard = await self._means.pool.run(self._input.hear, event.get("audio"), source)
        except WhisperServerError as problem:
            event_id = event.get("event_id")
            self._session.reject(problem, event_id if isinstance(event_id, str) else None)
        else:
            self._session.hear(*heard)

    async def _flush(self) -> None:
        """Send what the session has to say, and let work begin."""
        self._has_work.set()
        await self._send()

    async def _send(self) -> None:
        async with self._sending:
            for event in self._session.take_events():
                await self._means.send(event)

    async def _work(self) -> None:
        """Decode what there is to decode, until the client has nothing more to say and all is decoded."""
        try:
            while True:
                await self._has_work.wait()
                self._has_work.clear()
                await self._send()
                while (turn := self._session.next_turn()) is not None:
                    await self._decode(turn)
                if self._is_over:
                    return
                if (partial := self._session.next_partial()) is not None:
                    await self._cancel()
                    self._latest = _Early(partial, asyncio.create_task(self._decode_early(partial)))
                if not self._is_busy and not self._session.is_open:
                    await self._means.decoder.give_back()
        finally:
            await self._cancel()
            await self._means.decoder.give_back()

    async def _decode(self, turn: Turn) -> None:
        """Give a turn its text, or say why it has none."""
        started = _now_s()
        try:
            # A long session beside much other work may be refused this turn, and go on.
            self._means.slot.progress(self._decoded_s, self._decoded_s + turn.duration_s)
            transcript = await self._early_text(turn)
            if transcript is None:
                transcript = await self._means.decoder.turn(turn.samples, turn.params)
        except WhisperServerError as problem:
            await self._fail(turn, problem)
        except Exception:
            log.exception("a turn could not be decoded")
            await self._fail(turn, EngineFailure("The server failed on this turn; its log says why."))
        else:
            self._means.events.audio_transcribed(turn.duration_s, _now_s() - started)
            logprobs = logprob_objects(transcript.segments) if turn.params.logprobs else None
            heard = list(seconds_by_language(transcript.segments))
            languages = heard if transcript.shows_languages else None
            self._session.completed(turn, transcript.text, languages, logprobs)
        self._means.events.audio_read(turn.duration_s)
        self._decoded_s += turn.duration_s
        self._means.slot.progress(self._decoded_s)
        await self._flush()

    async def _fail(self, turn: Turn, problem: WhisperServerError) -> None:
        """Say why a turn has no text; the next one gets a model that has not failed."""
        self._session.failed(turn, problem)
        await self._means.decoder.give_back()

    async def _early_text(self, turn: Turn) -> Transcript | None:
        """Return the text of a turn that was decoded before it ended, waiting for it if need be."""
        if self._latest is not None and self._latest.partial.is_of(turn):
            latest, self._latest = self._latest, None
            return await latest.decode
        await self._cancel()
        return None

    async def _decode_early(self, partial: Partial) -> Transcript | None:
        """Tell the session what has been said so far; what fails here fails again at the turn's end."""
        decoder, started = self._means.decoder, _now_s()
        transcript: Transcript | None = None
        try:
            decode = decoder.early if partial.stretch.is_whole else decoder.draft
            transcript = await decode(partial.samples, partial.params)
        except Exception as problem:  # noqa: BLE001
            log.debug("a draft came to nothing: %s", type(problem).__name__)
        finally:
            phrases = phrases_of(transcript, partial.stretch.start_s) if transcript else None
            self._session.heard_partial(partial, phrases, _now_s() - started)
            self._has_work.set()
        return transcript

    @property
    def _is_busy(self) -> bool:
        return self._latest is not None and not self._latest.decode.done()

    async def _cancel(self) -> None:
        if self._latest is not None:
            self._latest.decode.cancel()
            await asyncio.gather(self._latest.decode, return_exceptions=True)


def _now_s() -> float:
    """Return the time on the event loop's clock, which a replay may turn itself."""
    return asyncio.get_running_loop().time()
