"""One client of the Wyoming protocol: its events in order, and the transcription of each utterance.

    describe                       -> info
    transcribe?, audio-start?, audio-chunk*, audio-stop
                                   -> transcript-start, transcript-chunk*, transcript, transcript-stop

An utterance goes through the same pipeline as an upload. It is admitted when it begins, its model is loaded
while it is spoken, and windows of 30 s are decoded while more comes in. An error is told by an event and ends
the connection: Home Assistant waits for a transcript or for the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioChunkConverter, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import Describe
from wyoming.ping import Ping, Pong

from whisper_server.core.errors import InvalidRequest, UploadStalled, WhisperServerError
from whisper_server.core.languages import parse_language
from whisper_server.core.types import SAMPLE_RATE, TranscribeParams
from whisper_server.core.validators import MAX_KEYWORDS, check_keywords
from whisper_server.services.admission import Slot
from whisper_server.services.audio.pcm import BYTES_PER_SECOND, PcmStream
from whisper_server.services.container import Services
from whisper_server.services.rendering.deltas import Deltas
from whisper_server.services.transcription import SegmentSource
from whisper_server.wyoming.framing import BadEvent, read_event
from whisper_server.wyoming.models import info_of

log = logging.getLogger("whisper_server.requests")

ROUTE = "wyoming"  # in the log and the metrics

BLOCK_S = 1.0  # what voice detection gets at once
LOOK_AHEAD_BLOCKS = 10  # of loudness: a voice at a microphone has shown its level after some seconds
MIN_SECONDS = 0.1  # shorter sound is none
COMMAND_S = (
    5.0  # shorter windows are commands, whose speaker waits: a beam takes time and changes few of them
)
WIDTHS, CHANNELS, RATES = range(1, 5), range(1, 3), range(4_000, 192_001)  # of what can be converted


class Disconnected(Exception):
    """The client has closed the connection before its transcript."""


@dataclass(slots=True)
class _Utterance:
    """What one transcription has received and answered so far, for log and metrics."""

    started_s: float = field(default_factory=time.monotonic)
    received_bytes: int = 0  # at 16 kHz
    name: str = field(default_factory=lambda: f"wyo_{os.urandom(12).hex()}")
    complete: asyncio.Event = field(default_factory=asyncio.Event)  # all was said
    waited_s: float = 0.0  # for the client


class Connection:
    """Serves one client until it leaves."""

    def __init__(
        self, services: Services, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._services = services
        self._reader = reader
        self._writer = writer
        self._asked: Transcribe = Transcribe()
        self._ahead: asyncio.Task[Event | None] | None = None  # an event that was read to notice the end
        self.is_busy = False  # with an utterance

    async def serve(self, is_draining: Callable[[], bool] = lambda: False) -> None:
        """Answer events until the client leaves, stalls or makes a mistake, or the server drains."""
        idle_s = self._services.settings.keep_alive_s + self._services.settings.stall_timeout_s
        try:
            while (event := await self._next(idle_s)) is not None:
                if Transcribe.is_type(event.type):
                    self._asked = Transcribe.from_event(event)
                elif AudioStart.is_type(event.type) or AudioChunk.is_type(event.type):
                    await self._utterance(event)
                elif AudioStop.is_type(event.type):
                    await self._send_transcript("", None)
                else:
                    await self._answer_small(event)
                if is_draining():
                    return
        except (Disconnected, ConnectionError, TimeoutError):
            return
        except BadEvent as error:
            await self.send_error(InvalidRequest(str(error)))
        except WhisperServerError as error:
            await self.send_error(error)

    def close(self) -> None:
        """Let the connection go."""
        if self._ahead is not None:
            self._ahead.cancel()
        self._writer.close()

    async def _utterance(self, first: Event) -> None:
        """Transcribe what comes from `first` on, to its end."""
        asked, self._asked = self._asked, Transcribe()
        said = _Utterance()
        outcome = status = None
        self.is_busy = True
        try:
            self._services.shutdown.check_open()
            with self._services.admission.enter() as slot:
                await self._transcribe(asked, said, slot, first)
            status = 200
        except WhisperServerError as error:
            outcome, status = type(error).__name__, error.status
            raise
        except (Disconnected, ConnectionError):
            outcome = "client_disconnected"
            raise
        except asyncio.CancelledError:
            outcome = "shutdown"
            raise
        finally:
            self.is_busy = False
            self._report(said, status or 0, outcome)

    async def _transcribe(self, asked: Transcribe, said: _Utterance, slot: Slot, first: Event) -> None:
        params = self._params(asked)
        async with contextlib.aclosing(self._samples(said, first)) as samples:
            lead = await anext(samples, b"")
            if not lead:  # nothing was said
                await self._send(TranscriptStart())
                await self._send_transcript("", None)
                return
            limit_s = float(self._services.settings.max_audio_seconds)
            audio = PcmStream(_joined(lead, samples), limit_s, block_s=BLOCK_S, look_ahead=LOOK_AHEAD_BLOCKS)
            source = self._services.transcriber.listen(audio, params, greedy_below_s=COMMAND_S)
            source.on_window = lambda done_s: slot.progress(done_s, source.duration_s)
            try:
                await self._until_disconnect(said, self._reply(source, params))
                slot.progress(source.duration_s)
                wall_s = time.monotonic() - said.started_s
                self._services.metrics.audio_transcribed(source.duration_s, wall_s)
            finally:
                source.on_window = None
                self._services.metrics.audio_read(source.duration_s)

    async def _reply(self, source: SegmentSource, params: TranscribeParams) -> None:
        """Send each phrase as it is known, then the whole text, which older clients wait for."""
        deltas, language = Deltas(), params.language
        parts: list[str] = []
        async with contextlib.aclosing(source.segments()) as segments:
            async for segment in segments:
                if not parts:
                    language = language or segment.language
                    await self._send(TranscriptStart(language=language))
                parts.append(deltas.add(segment.text))
                await self._send(TranscriptChunk(text=parts[-1]))
        if not parts:
            await self._send(TranscriptStart(language=language))
        await self._send_transcript("".join(parts), language)

    async def _send_transcript(self, text: str, language: str | None) -> None:
        await self._send(Transcript(text=text, language=language))
        await self._send(TranscriptStop())

    def _params(self, asked: Transcribe) -> TranscribeParams:
        """Check what the client asks for; names come before terms where there is not room for both."""
        catalog = self._services.catalog
        expected = [str(each) for each in (*(asked.transcript_names or ()), *(asked.transcript_terms or ()))]
        language = asked.language
        return TranscribeParams(
            model=catalog.resolve(str(asked.name or catalog.default)),
            language=parse_language(language if isinstance(language, str) else None),
            keywords=check_keywords(expected[:MAX_KEYWORDS]),
            priority="interactive",
        )

    async def _samples(self, said: _Utterance, event: Event | None) -> AsyncGenerator[bytes, None]:
        """Yield s16le at 16 kHz, mono, from an event on to `audio-stop`.

        A microphone delivers a second of sound in a second: a client that keeps the server waiting for longer
        than that, and the timeout of stalls, has gone.
        """
        converter = AudioChunkConverter(rate=SAMPLE_RATE, width=2, channels=1)
        stall_s = self._services.settings.stall_timeout_s
        while event is not None and not AudioStop.is_type(event.type):
            if AudioChunk.is_type(event.type):
                data = await self._converted(converter, event)
                said.received_bytes += len(data)
                if data:
                    yield data
            elif not AudioStart.is_type(event.type):
                await self._answer_small(event)
            asked_s = time.monotonic()
            left_s = stall_s + said.received_bytes / BYTES_PER_SECOND - said.waited_s
            try:
                event = await self._next(left_s)
            except TimeoutError as error:
                raise UploadStalled("The audio comes in more slowly than it is spoken.") from error
            said.waited_s += time.monotonic() - asked_s
        if event is None:
            raise Disconnected
        said.complete.set()
        if 0 < said.received_bytes < MIN_SECONDS * BYTES_PER_SECOND:
            yield b"\0" * (
                int(MIN_SECONDS * BYTES_PER_SECOND) - said.received_bytes
            )  # too short to be refused

    async def _converted(self, converter: AudioChunkConverter, event: Event) -> bytes:
        """Return a chunk's sound as the pipeline wants it; other formats are converted on the pool."""
        try:
            chunk = AudioChunk.from_event(event)
            is_known = chunk.rate in RATES and chunk.width in WIDTHS and chunk.channels in CHANNELS
        except (KeyError, TypeError) as error:
            raise BadEvent("An audio-chunk has no rate, width or channels.") from error
        if not is_known or len(chunk.audio) % (chunk.width * chunk.channels):
            raise BadEvent("Audio is to be whole samples of 1 to 4 bytes, mono or stereo, 4 to 192 kHz.")
        if not chunk.audio:
            return b""
        if (chunk.rate, chunk.width, chunk.channels) == (SAMPLE_RATE, 2, 1):
            return bytes(chunk.audio)
        converted = await self._services.pool.run(converter.convert, chunk)
        return bytes(converted.audio)

    async def _answer_small(self, event: Event) -> None:
        """Answer what needs no audio; what is not known is left alone, as the protocol has it."""
        if Describe.is_type(event.type):
            await self._send(info_of(self._services))
        elif Ping.is_type(event.type):
            text = event.data.get("text")
            await self._send(Pong(text=text if isinstance(text, str) else None))

    async def _next(self, timeout_s: float) -> Event | None:
        """Return the next event, None at the end; raises `TimeoutError`."""
        coming, self._ahead = self._ahead or asyncio.ensure_future(read_event(self._reader)), None
        try:
            await asyncio.wait({coming}, timeout=max(0.0, timeout_s))
            if not coming.done():
                raise TimeoutError
            return coming.result()
        finally:
            coming.cancel()

    async def _until_disconnect(self, said: _Utterance, work: Coroutine[Any, Any, None]) -> None:
        """Await the work; once all was said, cancel it when the client leaves."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._end_after(said))
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                watch.result()
                raise Disconnected
            task.result()
        finally:
            task.cancel()
            watch.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    async def _end_after(self, said: _Utterance) -> None:
        """Return when the client leaves after it has said all; an event that comes instead is kept."""
        await said.complete.wait()
        self._ahead = asyncio.ensure_future(read_event(self._reader))
        await asyncio.wait({self._ahead})
        if self._ahead.exception() is None and self._ahead.result() is None:
            return
        await asyncio.Event().wait()

    async def _send(self, message: Eventable) -> None:
        """Send; raises `TimeoutError` where the client does not take it."""
        stall_s = self._services.settings.stall_timeout_s
        await asyncio.wait_for(async_write_event(message.event(), self._writer), stall_s)

    async def send_error(self, error: WhisperServerError) -> None:
        """Tell the client, where it still listens."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._send(Error(text=error.message, code=error.code or type(error).__name__))

    def _report(self, said: _Utterance, status: int, outcome: str | None) -> None:
        """Write the utterance's line in the log, and count it, as a request is."""
        events = self._services.metrics
        wall_s = time.monotonic() - said.started_s
        events.request_done(ROUTE, "POST", status, wall_s)
        if outcome == "client_disconnected":
            events.client_disconnected("work" if said.complete.is_set() else "upload")
        elif outcome is not None:
            events.request_failed(outcome)
        log.info(
            "id=%s path=%s status=%s wall_s=%.3f audio_s=%.3f%s",
            said.name,
            ROUTE,
            status or "-",
            wall_s,
            said.received_bytes / BYTES_PER_SECOND,
            f" outcome={outcome}" if outcome else "",
        )


async def _joined(lead: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield lead
    async for chunk in rest:
        yield chunk
