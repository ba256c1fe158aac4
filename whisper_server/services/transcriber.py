"""The straight line from bytes to text; the only producer of segments.

    bytes --AudioProcessor.open--> AudioStream   blocks of float32 [n_samples], 16 kHz, mono, -1..1
          --vad.spans------------> [Span]        start_s, end_s in file time
          --windows.pack---------> Window        mel [n_mels, 3000], places (iterator)
          --scheduler.submit-----> Decoded       tokens, avg_logprob, no_speech_prob (await)
          --segments.of----------> Segment       start_s, end_s, text, words (file time again)
          --formats.render-------> str           in api and cli

Every step pulls from the one before it, so a file of any length passes through in a bounded amount
of memory. Plain replies, streams and the command line all collect `Transcription.segments`.
"""

from __future__ import annotations

import contextlib
from asyncio import Future as AsyncFuture
from asyncio import wrap_future
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from whisper_server.core.types import Decoded, DecodeOptions, Segment, Task, Transcript, Window, WindowJob
from whisper_server.services import channels, segments, vad, windows
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.vad import VadOptions

if TYPE_CHECKING:
    from whisper_server.services.audio_processor import AudioProcessor, AudioSource
    from whisper_server.services.catalog import Catalog
    from whisper_server.services.loader import WhisperModel
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.pool import WorkPool


@dataclass(frozen=True, slots=True)
class TranscribeParams:
    """What a request asks for, checked."""

    model: str
    task: Task = "transcribe"
    language: str | None = None  # a code; None: detect it once, on the first window
    languages: tuple[str, ...] = ()  # codes to choose from where none is given; (): all
    prompt: str = ""  # on the first window only
    keywords: tuple[str, ...] = ()  # words to expect, on every window
    temperature: float = 0.0  # 0 climbs by itself where the text looks wrong; above 0 is used as it is
    word_timestamps: bool = False
    shows_segments: bool = True  # False: the reply has the words only
    logprobs: bool = False  # of every text token
    speakers: tuple[str, ...] | None = None  # names of the channels, each a speaker; None: mix the channels
    vad: VadOptions = VadOptions()  # noqa: RUF009  frozen


class Transcriber:
    """Turns audio into segments with the services it was given."""

    def __init__(
        self,
        audio: AudioProcessor,
        catalog: Catalog,
        models: ModelManager[WhisperModel],
        pool: WorkPool,
        *,
        beam_size: int = 5,
        use_vad: bool = True,
    ) -> None:
        self._audio = audio
        self._catalog = catalog
        self._models = models
        self._pool = pool
        self._beam_size = beam_size
        self._use_vad = use_vad

    async def open(
        self, source: AudioSource, params: TranscribeParams
    ) -> Transcription | channels.Conversation:
        """Check the model's name, then the audio; nothing is loaded, and only channels are compared.

        Raises:
            InvalidRequest: the channels are to be speakers, and the audio has no two that differ.
            ModelNotFound: nobody configured that name.
            InvalidAudio: the source is no audio, or one we do not read.
            PayloadTooLarge: the source is larger than the limit.
        """
        self._catalog.resolve(params.model)
        if params.speakers is not None:
            return await self._open_channels(source, params, params.speakers)
        return await self._open_line(source, params)

    async def _open_line(
        self, source: AudioSource, params: TranscribeParams, channel: int | None = None
    ) -> Transcription:
        # A caller that is cancelled meanwhile must not leave the opened stream behind.
        stream = await self._pool.run(self._audio.open, source, channel, unclaimed=AudioStream.close)
        return Transcription(stream, params, self._models, self._pool, self._options(params), self._use_vad)

    async def _open_channels(
        self, source: AudioSource, params: TranscribeParams, names: tuple[str, ...]
    ) -> channels.Conversation:
        """Read the file once to compare its channels, then open it once for each."""
        assert not hasattr(source, "read"), "a file object cannot be read by several at once"
        stream = await self._pool.run(self._audio.open, source, unclaimed=AudioStream.close)
        n_channels = stream.info.channels
        with contextlib.ExitStack() as opened:
            opened.callback(stream.close)
            channels.check_channels(n_channels)
            labels = channels.labels(names, n_channels)
            survey = channels.Survey(n_channels)
            steps = self._pool.iterate(channels.measured(stream, survey))
            async with contextlib.aclosing(steps):  # type: ignore[type-var]
                async for _ in steps:
                    pass
            lines = []
            for channel in range(n_channels):
                line = await self._open_line(source, params, channel)
                opened.callback(line.audio.close)
                lines.append(line)
            opened.pop_all()
        return channels.Conversation(tuple(lines), labels, survey)

    async def transcribe(self, source: AudioSource, params: TranscribeParams) -> Transcript:
        """Transcribe a whole file; `Transcription.segments` says what may be raised."""
        transcription = await self.open(source, params)
        return await transcription.collect()

    def _options(self, params: TranscribeParams) -> DecodeOptions:
        options = DecodeOptions(
            task=params.task,
            beam_size=self._beam_size,
            word_timestamps=params.word_timestamps or params.logprobs,
        )
        return replace(options, temperatures=(params.temperature,)) if params.temperature > 0 else options


@dataclass(slots=True)
class Transcription:
    """One file on its way through the line; use it once."""

    audio: AudioStream
    params: TranscribeParams
    _models: ModelManager[WhisperModel]
    _pool: WorkPool
    _options: DecodeOptions
    _use_vad: bool
    _language: str | None = field(init=False)
    windows_done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        only = self.params.languages[0] if len(self.params.languages) == 1 else None
        self._language = self.params.language or only

    @property
    def duration_s(self) -> float:
        """Seconds of the file read so far; all of it once the segments are exhausted."""
        return self.audio.position_s

    async def collect(self) -> Transcript:
        """Return the whole transcript."""
        async with contextlib.aclosing(self.segments()) as produced:
            found = tuple([segment async for segment in produced])
        return self.transcript(found)

    def transcript(self, found: tuple[Segment, ...]) -> Transcript:
        """Return the transcript made of the segments that `segments` has produced."""
        return Transcript(
            self.params.task,
            self._language or "",
            self.duration_s,
            found,
            shows_languages=bool(self.params.languages),
            shows_segments=self.params.shows_segments,
            shows_words=self.params.word_timestamps,
            shows_logprobs=self.params.logprobs,
        )

    def lease(self) -> AbstractAsyncContextManager[WhisperModel]:
        """Lend the model of this file, loading it where needed."""
        return self._models.lease(self.params.model)

    async def segments(self, model: WhisperModel | None = None) -> AsyncGenerator[Segment, None]:
        """Produce segments in file order, each as soon as its window is decoded.

        Run it under `contextlib.aclosing`: it holds the open file and, unless it is lent a model, a lease.

        Raises:
            AudioTooLong: the audio goes on for longer than the limit.
            ModelUnavailable: the model cannot be had now.
            Unavailable: no room to load the model, or the server is shutting down.
            EngineFailure: the engine failed on a window of this file.
        """
        try:
            async with (
                contextlib.nullcontext(model) if model else self.lease() as leased,
                contextlib.aclosing(self._decoded(leased)) as decoded,
            ):
                if self._language is not None:  # refused now, and not only where somebody speaks
                    leased.engine.tokenizer.start_sequence(self._language, self.params.task)
                async for window, result in decoded:
                    found = await self._pool.run(segments.of, window, result, leased.engine.tokenizer)
                    for segment in found:
                        yield segment
        finally:
            # Closed already where the windows were pulled; where no window was, it is not.
            self.audio.close()

    async def _decoded(self, model: WhisperModel) -> AsyncGenerator[tuple[Window, Decoded], None]:
        """Decode windows in order, a few ahead, to share batches; alone the one that tells the language."""
        pending: deque[tuple[Window, AsyncFuture[Decoded]]] = deque()
        source = self._pool.iterate(self._windows(model.engine.info.n_mels))
        prompt, keywords = self.params.prompt, ", ".join(self.params.keywords)
        try:
            async with contextlib.aclosing(source):  # type: ignore[type-var]
                async for window in source:
                    if window is None:  # nothing yet; another request had its turn on the thread
                        continue
                    job = WindowJob(window, self._language, prompt, self.params.languages, keywords)
                    prompt = ""
                    begins = not (pending or self.windows_done)
                    decoded = model.scheduler.submit(job, self._options, begins=begins)
                    pending.append((window, wrap_future(decoded)))
                    while pending and self._must_wait(pending, model.engine.info.max_batch):
                        yield await self._next(pending)
                while pending:
                    yield await self._next(pending)
        finally:
            for _, future in pending:
                future.cancel()

    def _must_wait(self, pending: deque[tuple[Window, AsyncFuture[Decoded]]], ahead: int) -> bool:
        return self._language is None or len(pending) >= ahead or pending[0][1].done()

    async def _next(self, pending: deque[tuple[Window, AsyncFuture[Decoded]]]) -> tuple[Window, Decoded]:
        # Peek first: a cancel while waiting must find the future still in the queue.
        window, future = pending[0]
        result = await future
        pending.popleft()
        self._language = self._language or result.language
        self.windows_done += 1
        return window, result

    def _windows(self, n_mels: int) -> Generator[Window | None, None, None]:
        """Pull samples through voice activity detection into windows; runs on the pool."""
        with self.audio as stream:
            blocks = stream.blocks()
            found = vad.steps(blocks, self.params.vad) if self._use_vad else vad.fixed(blocks)
            yield from windows.pack(found, n_mels)
