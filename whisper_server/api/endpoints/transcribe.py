"""The pipeline as endpoints use it: for a whole transcript, or phrase by phrase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass

from whisper_server.api.deps import Admitted
from whisper_server.api.disconnect import until_disconnect
from whisper_server.api.requests.read import Upload
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import AudioInfo, Segment, TranscribeParams, Transcript
from whisper_server.services.rendering.deltas import Deltas
from whisper_server.services.transcription import SegmentSource

_AUDIO_PARAMS = frozenset({"file", "audio"})  # what the checks call the audio, which know of no request


@contextlib.contextmanager
def named_as(param: str) -> Iterator[None]:
    """Let errors of the audio name the field that the client sent it in."""
    try:
        yield
    except InvalidRequest as error:
        if error.param in _AUDIO_PARAMS:
            error.param = param
        raise


@contextlib.contextmanager
def observed(admitted: Admitted, model: str, source: SegmentSource, started_s: float) -> Iterator[None]:
    """Tell slot, metrics and log what becomes of an opened recording.

    `model` is what the client calls it, `started_s` when the work began, on the monotonic clock.
    """
    events, slot, log = admitted.services.metrics, admitted.slot, admitted.log
    log["model"] = model
    source.on_window = lambda done_s: slot.progress(done_s, source.duration_s)
    try:
        yield
        slot.progress(source.duration_s)  # what is silent at the end comes in no window
        events.audio_transcribed(source.duration_s, time.monotonic() - started_s)
    finally:
        source.on_window = None
        events.audio_read(source.duration_s)
        log["audio_s"] = round(source.duration_s, 3)
        log["windows"] = source.windows_done


@dataclass(frozen=True, slots=True)
class Transcribing:
    """An upload of one admitted request, on its way to text; use it once."""

    admitted: Admitted
    upload: Upload
    model: str  # as the client names it
    params: TranscribeParams
    text: str | None = None  # what is said, where only its times are wanted

    async def transcribe(self) -> tuple[Transcript, AudioInfo]:
        """Run the pipeline to its end; raises `ClientDisconnected` where the client leaves before."""
        return await until_disconnect(self.admitted.request.receive, self._collect())

    async def phrases(self) -> AsyncGenerator[tuple[str, Segment], None]:
        """Yield segments as soon as their window is decoded, each with what it adds to the text.

        Joined, that is exactly the text of the whole transcript. Run it under `contextlib.aclosing`: it holds
        the model's lease and the open file.
        """
        deltas = Deltas()
        async with (
            self._opened() as transcription,
            contextlib.aclosing(transcription.segments()) as segments,
        ):
            async for segment in segments:
                yield deltas.add(segment.text), segment

    async def _collect(self) -> tuple[Transcript, AudioInfo]:
        async with self._opened() as transcription:
            return await transcription.collect(), transcription.info

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[SegmentSource]:
        """Open the upload for the pipeline; note for the log and the metrics what was done with it."""
        services = self.admitted.services
        started = time.monotonic()
        services.shutdown.check_open()  # before the audio is read
        with named_as(self.upload.param):
            transcription = await self._open()
            with observed(self.admitted, self.model, transcription, started):
                yield transcription

    async def _open(self) -> SegmentSource:
        transcriber = self.admitted.services.transcriber
        if self.text is not None:
            return await transcriber.align(self.upload.data, self.text, self.params, self._admit)
        return await transcriber.open(self.upload.data, self.params, self._admit)

    def _admit(self, info: AudioInfo) -> None:
        """Expect as much audio as the header claims, as far as that can be true; raises `Overloaded`."""
        claimed_s = max(0.0, info.header_duration_s or 0.0)
        self.admitted.slot.expect(min(claimed_s, float(self.admitted.services.settings.max_audio_seconds)))
