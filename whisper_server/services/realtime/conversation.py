"""Drives one session: sound through voice detection, turns and drafts through the pipeline, events out.

Owns the order of the work and the model's lease; `session` owns what it means. Must not know of sockets:
what comes from the client is an iterator of parsed events, what goes to it a function.

Theory of operation. Two tasks share the session, on one event loop, and neither awaits within a method of
it. `run` takes the client's events in order. `_work` decodes: complete turns first, one after the other,
and in between a draft of the open one, which is cancelled as soon as the turn is complete. Both send what
their step made the session say, before the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import EngineFailure, InvalidRequest, WhisperServerError
from whisper_server.services.realtime.agreement import Phrase
from whisper_server.services.realtime.session import Session
from whisper_server.services.realtime.sound_input import SoundInput
from whisper_server.services.rendering.formats import logprob_objects
from whisper_server.services.transcription import LeasedModel

if TYPE_CHECKING:
    from whisper_server.core.events import Events
    from whisper_server.core.types import ModelSource, TranscribeParams, Transcript
    from whisper_server.services.admission import Slot
    from whisper_server.services.loaded_models.speech_model import SpeechModel
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.realtime.server_events import Event
    from whisper_server.services.realtime.work import Partial, Turn
    from whisper_server.services.transcriber import Transcriber
    from whisper_server.services.transcription import Transcription
    from whisper_server.services.work_pool import WorkPool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a conversation works with."""

    transcriber: Transcriber
    models: ModelManager[SpeechModel]
    pool: WorkPool
    events: Events
    slot: Slot
    send: Callable[[Event], Awaitable[None]]


class Conversation:
    """One client's session, from its first event to its end; use it once."""

    def __init__(self, session: Session, means: Means) -> None:
        self._session = session
        self._means = means
        self._input = SoundInput()
        self._lease = _Lease(means.models)
        self._has_work = asyncio.Event()
        self._is_over = False  # the client has nothing more to say
        self._sending = asyncio.Lock()  # events leave in the order in which the session made them
        self._draft: asyncio.Task[None] | None = None
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
                    await self._cancel_draft()
                    await self._decode(turn)
                if self._is_over:
                    return
                if self._draft is None and (partial := self._session.next_partial()) is not None:
                    self._draft = asyncio.create_task(self._decode_draft(partial))
                if self._draft is None and not self._session.is_open:
                    await self._lease.give_back()
        finally:
            await self._cancel_draft()
            await self._lease.give_back()

    async def _decode(self, turn: Turn) -> None:
        """Give a turn its text, or say why it has none."""
        started = time.monotonic()
        try:
            # A long session beside much other work may be refused this turn, and go on.
            self._means.slot.progress(self._decoded_s, self._decoded_s + turn.duration_s)
            opened = self._means.transcriber.open_samples(turn.samples, turn.params)
            transcript = await self._lease.transcript(opened)
        except WhisperServerError as problem:
            await self._fail(turn, problem)
        except Exception:
            log.exception("a turn could not be decoded")
            await self._fail(turn, EngineFailure("The server failed on this turn; its log says why."))
        else:
            self._means.events.audio_transcribed(turn.duration_s, time.monotonic() - started)
            logprobs = logprob_objects(transcript.segments) if turn.params.logprobs else None
            self._session.completed(turn, transcript.text, _languages(transcript), logprobs)
        self._means.events.audio_read(turn.duration_s)
        self._decoded_s += turn.duration_s
        self._means.slot.progress(self._decoded_s)
        await self._flush()

    async def _fail(self, turn: Turn, problem: WhisperServerError) -> None:
        """Say why a turn has no text; the next one gets a model that has not failed."""
        self._session.failed(turn, problem)
        await self._lease.give_back()

    async def _decode_draft(self, partial: Partial) -> None:
        """Tell the session what has been said so far; what fails here fails again at the turn's end."""
        started = time.monotonic()
        phrases: list[Phrase] | None = None
        try:
            opened = self._means.transcriber.open_samples(partial.samples, partial.params, is_draft=True)
            transcript = await self._lease.draft(opened)
            phrases = [Phrase(each.text, partial.start_s + each.end_s) for each in transcript.segments]
        except Exception as problem:  # noqa: BLE001
            log.debug("a draft came to nothing: %s", type(problem).__name__)
        finally:
            self._draft = None
            self._session.heard_partial(partial, phrases, time.monotonic() - started)
            self._has_work.set()

    async def _cancel_draft(self) -> None:
        draft = self._draft
        if draft is not None:
            draft.cancel()
            await asyncio.gather(draft, return_exceptions=True)


class _Lease:
    """The model, kept from a turn's first draft to its text: it stays loaded while somebody speaks."""

    def __init__(self, models: ModelManager[SpeechModel]) -> None:
        self._models = models
        self._stack = contextlib.AsyncExitStack()
        self._source: ModelSource | None = None
        self._leased: LeasedModel | None = None

    async def transcript(self, opened: Transcription) -> Transcript:
        """Decode a whole recording; raises what `Transcription.segments` does."""
        with contextlib.closing(opened.audio):
            leased = await self._take(opened.params)
            return await _collected(opened, leased)

    async def draft(self, opened: Transcription) -> Transcript:
        """Decode one that may be cancelled: its windows leave the device with it."""
        with contextlib.closing(opened.audio):
            model = (await self._take(opened.params)).model
            with model.scheduler.open_stream(opened.params.priority) as stream:
                return await _collected(opened, LeasedModel(model, stream))

    async def give_back(self) -> None:
        """Let the model go."""
        self._leased = None
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await stack.aclose()

    async def _take(self, params: TranscribeParams) -> LeasedModel:
        if self._leased is None or self._source != params.model:
            await self.give_back()
            model = await self._stack.enter_async_context(self._models.lease(params.model))
            stream = self._stack.enter_context(model.scheduler.open_stream(params.priority, is_live=True))
            self._leased, self._source = LeasedModel(model, stream), params.model
        return self._leased


async def _collected(opened: Transcription, leased: LeasedModel) -> Transcript:
    async with contextlib.aclosing(opened.segments(leased)) as segments:
        return opened.transcript(tuple([segment async for segment in segments]))


def _languages(transcript: Transcript) -> list[str] | None:
    """Return the languages that were heard, where those to choose from were named."""
    if not transcript.shows_languages:
        return None
    return list(dict.fromkeys(segment.language for segment in transcript.segments))
