"""The pipeline as endpoints use it: for a whole transcript, or phrase by phrase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from whisper_server.api.compat.addresses import address_of
from whisper_server.api.compat.groq import with_groq_id
from whisper_server.api.deps import Admitted
from whisper_server.api.disconnect import until_disconnect
from whisper_server.api.middleware.request_log import record_of
from whisper_server.api.requests.read import TranscriptionRequest
from whisper_server.api.requests.upload import Upload
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import AudioInfo, Segment, TranscribeParams, Transcript
from whisper_server.services.rendering.deltas import Deltas
from whisper_server.services.rendering.formats import JSON_TYPE, render
from whisper_server.services.transcription import SegmentSource

# What the checks call the audio, which know of no request.
_AUDIO_PARAMS = frozenset({"file", "audio", "input_audio"})


@contextlib.contextmanager
def named_as(param: str) -> Iterator[None]:
    """Let errors of the audio name the field that the client sent it in."""
    try:
        yield
    except InvalidRequest as error:
        if error.param in _AUDIO_PARAMS:
            error.param = param
        raise


async def rendered(admitted: Admitted, wanted: TranscriptionRequest, transcript: Transcript) -> Response:
    """Return the reply in the format that was asked for."""
    body, media_type = await admitted.services.pool.run(
        render, transcript, wanted.response_format, wanted.subtitles
    )
    return reply_of(admitted, body, media_type)


def reply_of(admitted: Admitted, body: str, media_type: str = JSON_TYPE) -> Response:
    """Return a whole reply, as the clients expect it that use the address of the request."""
    scope = admitted.request.scope
    if media_type == JSON_TYPE and address_of(scope).is_groq:
        body = with_groq_id(body, record_of(scope).request_id)
    return Response(body, media_type=media_type)


@contextlib.contextmanager
def observed(
    admitted: Admitted, model: str, source: SegmentSource, started_s: float, n_passes: int = 1
) -> Iterator[None]:
    """Tell slot, metrics and log what becomes of an opened recording; the slot raises `Overloaded`.

    `model` is what the client calls it, `started_s` when the work began, on the monotonic clock, `n_passes`
    how often the recording is transcribed.
    """
    events, slot, log = admitted.services.metrics, admitted.slot, admitted.log
    log["model"] = model

    def note(done_s: float = 0.0) -> None:
        slot.progress(done_s * n_passes, source.duration_s * n_passes)

    source.on_window = source.on_read = note
    try:
        yield
        note(source.duration_s)  # what is silent at the end comes in no window
        events.audio_transcribed(source.duration_s, time.monotonic() - started_s)
    finally:
        source.on_window = source.on_read = None
        events.audio_read(source.duration_s)
        log["audio_s"] = round(source.duration_s, 3)
        log["windows"] = source.windows_done


def bodies_of(form: type[BaseModel], json: type[BaseModel]) -> dict[str, Any]:
    """Describe a request body that comes in two encodings."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form.model_json_schema()},
                "application/json": {"schema": json.model_json_schema()},
            },
        }
    }


@dataclass(slots=True)
class Transcribing:
    """An upload of one admitted request, on its way to text; use it once."""

    admitted: Admitted
    upload: Upload
    model: str  # as the client names it
    params: TranscribeParams
    text: str | None = None  # what is said, where only its times are wanted
    _n_passes: int = field(default=1, init=False)  # over the audio

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
        services, started = self.admitted.services, time.monotonic()
        services.shutdown.check_open()  # before the audio is read
        with named_as(self.upload.param):
            source = await self._open()
            with observed(self.admitted, self.model, source, started, self._n_passes):
                yield source

    async def _open(self) -> SegmentSource:
        transcriber, data = self.admitted.services.transcriber, self.upload.data
        if self.text is not None:
            return await transcriber.align(data, self.text, self.params, self._admit)
        return await transcriber.open(
            data,
            self.params,
            self._admit,
            lambda read_s: self.admitted.slot.progress(0.0, read_s * self._n_passes),
        )

    def _admit(self, info: AudioInfo) -> None:
        """Expect as much audio as the header claims, once per channel that may be transcribed by itself."""
        is_one = self.params.speakers is None or self.params.voices.are_given
        self._n_passes = 1 if is_one else max(1, info.channels)
        expect(self.admitted, info, self._n_passes)


def expect(admitted: Admitted, info: AudioInfo, n_passes: int = 1) -> None:
    """Let the slot expect what the header claims, as far as that can be true; raises `Overloaded`."""
    claimed_s = max(0.0, info.header_duration_s or 0.0)
    admitted.slot.expect(n_passes * min(claimed_s, float(admitted.services.settings.max_audio_seconds)))
