"""The pipeline from bytes to text: one file's way, and the only producer of segments.

    bytes --AudioProcessor.open--> AudioStream  blocks of float32 [n_samples], 16 kHz, mono, -1..1
          --vad.steps------------> [Span]       samples, start_s in file time
          --windows.pack---------> Window       mel [n_mels, 3000], places (iterator)
          --WindowStream.submit--> Decoded      tokens, avg_logprob, no_speech_prob (await)
          --segments.of----------> Segment      start_s, end_s, text, words (file time again)
          --FileLanguage.of------> str          the language of each window; decoded again if in another
          --leftover.stretches---> Window       what the model left undone, decoded as windows of their own
          --formats.render-------> text         in api and cli

Every step pulls from the one before it, so a file of any length passes through in a bounded amount
of memory. Plain replies, streams and the command line all take `Transcription.segments`. Must not know how
audio is opened, or of requests.
"""

from __future__ import annotations

import contextlib
from asyncio import Future as AsyncFuture
from asyncio import wrap_future
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from whisper_server.core.types import (
    AudioInfo,
    Decoded,
    DecodeOptions,
    Segment,
    TranscribeParams,
    Transcript,
    Window,
    WindowJob,
    main_language,
)
from whisper_server.services.decoding import belief, leftover, seams, segments
from whisper_server.services.decoding.language import FileLanguage, Heard
from whisper_server.services.scheduling.remembered import RememberedStream
from whisper_server.services.speech import vad, windows

if TYPE_CHECKING:
    from whisper_server.core.types import Samples, VadOptions
    from whisper_server.services.loaded_models.speech_model import SpeechModel
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.scheduling.remembered import DecodedMemory, DecodeStream
    from whisper_server.services.work_pool import WorkPool


@dataclass(frozen=True, slots=True)
class LeasedModel:
    """What one request works with: the model, and the request's own stream of windows to it."""

    model: SpeechModel
    stream: DecodeStream


class SampleStream(Protocol):
    """One recording's samples, of a file or as they come in; heard once; close it when done."""

    @property
    def info(self) -> AudioInfo:
        """What is known of it before any sample is read."""
        ...

    @property
    def position_s(self) -> float:
        """Seconds read so far."""
        ...

    async def ready(self) -> None:
        """Wait until one more block can be pulled without waiting; awaited before each step."""
        ...

    def settle(self) -> Iterator[None]:
        """Find out which of several tracks is heard, a step at a time."""
        ...

    def blocks(self) -> Iterator[Samples]:
        """Yield float32 [n], 16 kHz mono, -1..1; blocks."""
        ...

    def close(self) -> None:
        """Give everything back; idempotent."""
        ...


class SegmentSource(Protocol):
    """An opened recording that becomes segments, of one file or of its channels; use it once."""

    on_window: Callable[[float], None] | None  # is told, after each window, the file time decoded so far
    on_read: Callable[[], None] | None  # is called as audio is read, be there a window in it or not

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself."""
        ...

    @property
    def duration_s(self) -> float:
        """Seconds of the file read so far; all of it once the segments are exhausted."""
        ...

    @property
    def windows_done(self) -> int:
        """Windows decoded so far."""
        ...

    def segments(self) -> AsyncGenerator[Segment, None]:
        """Produce segments in file order, each as soon as it is known. Run it under `contextlib.aclosing`."""
        ...

    def transcript(self, found: tuple[Segment, ...]) -> Transcript:
        """Return the transcript made of the segments that `segments` has produced."""
        ...

    async def collect(self) -> Transcript:
        """Return the whole transcript; raises what `segments` does."""
        async with contextlib.aclosing(self.segments()) as produced:
            found = tuple([segment async for segment in produced])
        return self.transcript(found)


@dataclass(slots=True)
class Transcription(SegmentSource):
    """One file on its way through the pipeline; use it once."""

    audio: SampleStream
    params: TranscribeParams
    options: DecodeOptions
    _models: ModelManager[SpeechModel]
    _pool: WorkPool
    _use_vad: bool
    _switches_language: bool = True
    _memory: DecodedMemory | None = None  # of what was said of its windows before
    greedy_below_s: float = field(default=0.0, init=False)  # shorter windows get one hypothesis, no beam
    _language: FileLanguage = field(init=False)
    _is_first: bool = field(default=True, init=False)  # no window with a voice was submitted yet
    _decoded_s: float = field(default=0.0, init=False)  # file time up to which windows are decoded
    windows_done: int = field(default=0, init=False)
    on_window: Callable[[float], None] | None = field(default=None, init=False)
    on_read: Callable[[], None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        only = self.params.languages[0] if len(self.params.languages) == 1 else None
        self._language = FileLanguage(self.params.language or only, switches=self._switches_language)

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself."""
        return self.audio.info

    @property
    def duration_s(self) -> float:
        """Seconds of the file read so far; all of it once the segments are exhausted."""
        return self.audio.position_s

    def transcript(self, found: tuple[Segment, ...]) -> Transcript:
        """Return the transcript made of these segments, in the language of most of them if none was given."""
        given = None if self._language.is_detected else self._language.main
        language, probability = (given, 1.0) if given else main_language(found)
        return Transcript(
            self.params.task,
            language,
            self.duration_s,
            found,
            language_probability=probability,
            shows_languages=self.params.shows_languages,
            shows_segments=self.params.shows_segments,
            shows_words=self.params.word_timestamps,
            shows_logprobs=self.params.logprobs,
        )

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[LeasedModel]:
        """Lend the model of this file, loading it where needed, with a stream for this request."""
        is_background = self.params.priority == "background"
        async with self._models.lease(self.params.model, is_background=is_background) as model:
            with model.scheduler.open_stream(self.params.priority) as stream:
                memory = self._memory
                yield LeasedModel(model, stream if memory is None else RememberedStream(stream, memory))

    async def segments(self, lease: LeasedModel | None = None) -> AsyncGenerator[Segment, None]:
        """Produce segments in file order, each as soon as its window is decoded.

        Run it under `contextlib.aclosing`: it holds the open file and, unless it is lent a lease, a lease.

        Raises:
            AudioTooLong: the audio goes on for longer than the limit.
            ModelUnavailable: the model cannot be loaded now.
            Unavailable: no room to load the model, or the server is shutting down.
            EngineFailure: the engine failed on a window of this file.
        """
        try:
            async with (
                contextlib.nullcontext(lease) if lease else self.lease() as lent,
                contextlib.aclosing(self.decoded(lent)) as decoded,
                contextlib.aclosing(self._in_their_languages(lent, decoded)) as settled,
            ):
                tokenizer = lent.model.engine.tokenizer
                known = tokenizer.languages
                if (
                    self._language.main is None
                    and len(known) == 1
                    and known[0] in (self.params.languages or known)
                ):
                    self._language = FileLanguage(known[0])  # nothing to detect
                if self._language.main is not None:  # refused now, and not only where there is speech
                    tokenizer.start_sequence(self._language.main, self.params.task)
                async for window, result in settled:
                    for segment in await self._said(lent, window, result):
                        yield segment
        finally:
            # Closed already where windows were pulled, but not where none was.
            self.audio.close()

    async def _in_their_languages(
        self, lease: LeasedModel, decoded: AsyncGenerator[tuple[WindowJob, Decoded], None]
    ) -> AsyncGenerator[tuple[Window, Decoded], None]:
        """Hold windows until their language can be told, and decode again those that are in another one."""
        held: list[tuple[WindowJob, Decoded]] = []
        async for job, result in decoded:
            held.append((job, result))
            if result.language_scores and not self._language.hear(heard_in(job.window, result)):
                continue
            for each in held:
                yield each[0].window, await self._in_its_language(lease, *each)
            held = []
        self._language.decide()
        for each in held:
            yield each[0].window, await self._in_its_language(lease, *each)

    async def _in_its_language(self, lease: LeasedModel, job: WindowJob, result: Decoded) -> Decoded:
        """Return the window in the language that it has in its file."""
        scores = result.language_scores
        if not scores:
            return replace(result, language_probability=self._language.probability)
        language = self._language.of(heard_in(job.window, result))
        if language == result.language:
            return result
        again = await self._decode(lease.stream, replace(job, language=language, switches=False))
        self._count(job.window)
        return replace(again, language_probability=scores.get(language, 0.0))

    async def decoded(self, lease: LeasedModel) -> AsyncGenerator[tuple[WindowJob, Decoded], None]:
        """Decode windows in order, with some ahead, so that the device never waits for the next one.

        Until the language of the file is known, they are decoded one by one, the others made ready meanwhile.
        """
        stream = lease.stream
        ready: deque[Window] = deque()
        pending: deque[tuple[WindowJob, AsyncFuture[Decoded]]] = deque()
        options = self.params.vad if self._use_vad else None
        source = self._pool.iterate(
            windows_of(self.audio, options, lease.model.engine.info.n_mels), self.audio.ready
        )
        async with contextlib.aclosing(source):  # type: ignore[type-var]
            async for window in source:
                if self.on_read is not None:
                    self.on_read()
                if window is not None:  # else nothing yet; another request had its turn on the thread
                    ready.append(window)
                self._submit(stream, ready, pending)
                while pending and (pending[0][1].done() or len(ready) + len(pending) >= stream.ahead):
                    yield await self._next(pending)
                    self._submit(stream, ready, pending)
        while pending:
            yield await self._next(pending)
            self._submit(stream, ready, pending)

    def _submit(
        self,
        stream: DecodeStream,
        ready: deque[Window],
        pending: deque[tuple[WindowJob, AsyncFuture[Decoded]]],
    ) -> None:
        """Submit what is ready; all windows but one wait until the language is known."""
        while ready and (self._language.main is not None or not pending):
            job = self._job(ready.popleft(), self._language.main)
            pending.append((job, self._decode(stream, job)))

    async def _said(
        self, lease: LeasedModel, window: Window, result: Decoded, *, is_part: bool = False
    ) -> list[Segment]:
        """Return the segments of a window, and of what it left undone, in order.

        What was left undone is submitted at once, behind the windows that are pending already. Each piece is
        shorter than the window, so this ends.
        """
        tokenizer, threshold = lease.model.engine.tokenizer, self.params.vad.threshold
        if self.options.is_draft:
            return await self._pool.run(segments.of, window, result, tokenizer, threshold)
        result = leftover.completed(result, tokenizer)
        undone = await self._pool.run(
            partial(leftover.stretches, window, result, tokenizer, threshold, is_part=is_part)
        )
        pending = [
            (
                stretch,
                [
                    (part, self._decode(lease.stream, self._job(part, result.language)))
                    for part in parts(window, stretch)
                ],
            )
            for stretch in undone
        ]
        found = await self._pool.run(segments.of, window, result, tokenizer, threshold)
        for stretch, pieces in pending:
            more: list[Segment] = []
            for part, future in pieces:
                again = await future
                self._count(part)
                if not again.language_scores:
                    again = replace(again, language_probability=result.language_probability)
                if leftover.is_more(part, again):
                    more += await self._said(lease, part, again, is_part=True)
            start_s = window.file_time(stretch.start_s)
            end_s = window.file_time(stretch.ends_s[-1], is_end=True)
            found = seams.merged(found, more, start_s, end_s, replaces=stretch.has_text)
        return found

    def _decode(self, stream: DecodeStream, job: WindowJob) -> AsyncFuture[Decoded]:
        """Submit a window; over one without a voice, only what the model is sure of at once is believed."""
        options = self.options
        if not has_voice(job.window, self.params.vad.threshold):
            options = replace(options, temperatures=options.temperatures[:1])
        if job.window.duration_s < self.greedy_below_s:
            options = replace(options, beam_size=1)
        return wrap_future(stream.submit(job, options))

    def _job(self, window: Window, language: str | None) -> WindowJob:
        """Return a window with the language that it is expected to be in, if any is."""
        params = self.params
        is_first = self._is_first and has_voice(window, params.vad.threshold)
        self._is_first = self._is_first and not is_first
        return WindowJob(
            window,
            language,
            prompt=params.prompt if is_first else "",
            candidates=params.languages,
            keywords=", ".join(params.keywords),
            task=params.task,
            word_timestamps=params.word_timestamps or params.logprobs,
            seed=params.seed,
            switches=self._language.switches,
        )

    async def _next(
        self, pending: deque[tuple[WindowJob, AsyncFuture[Decoded]]]
    ) -> tuple[WindowJob, Decoded]:
        job, future = pending[0]
        result = await future
        pending.popleft()
        self._count(job.window)
        return job, result

    def _count(self, window: Window) -> None:
        """Count a decoded window, and tell how far the file is decoded; a part of a window is behind that."""
        self.windows_done += 1
        self._decoded_s = max(self._decoded_s, window.file_time(window.duration_s, is_end=True))
        if self.on_window is not None:
            self.on_window(self._decoded_s)


def windows_of(
    audio: SampleStream, options: VadOptions | None, n_mels: int
) -> Generator[Window | None, None, None]:
    """Pull samples through voice detection, without `options` past it, into windows; runs on the pool.

    Pulls one block per step at most, and closes the audio.
    """
    with contextlib.closing(audio):
        for _ in audio.settle():
            yield None
        blocks = audio.blocks()
        found = vad.fixed(blocks) if options is None else vad.steps(blocks, options)
        yield from windows.pack(found, n_mels)


def parts(window: Window, stretch: leftover.Stretch) -> list[Window]:
    """Return the pieces of a stretch as windows of their own."""
    return [windows.part(window, start_s, end_s) for start_s, end_s in stretch.pieces]


def heard_in(window: Window, result: Decoded) -> Heard:
    """Return what a window says about its language; a model that knows one language says that."""
    scores = result.language_scores or {result.language: result.language_probability}
    return Heard(scores, belief.spoken_s(window))


def has_voice(window: Window, threshold: float) -> bool:
    """Tell whether somebody may speak in a window: voice was found in it, or not looked for."""
    return not window.voice or max(window.voice) >= threshold
