"""The endpoints that take audio: transcriptions, translations, and what a file is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from fastapi import APIRouter, Response

from whisper_server.api.deps import OVERLOADED, Admitted, AdmittedDep
from whisper_server.api.disconnect import until_disconnect
from whisper_server.api.endpoints.background import submitted
from whisper_server.api.endpoints.transcribe import (
    Transcribing,
    bodies_of,
    expect,
    named_as,
    rendered,
    reply_of,
)
from whisper_server.api.replies import sse
from whisper_server.api.replies.audio import (
    AudioInfoReply,
    AudioTrack,
    DeltaEvent,
    DiarizedReply,
    DoneEvent,
    FormReply,
    JsonReply,
    LanguageCode,
    SegmentEvent,
    TokenLogprob,
    TranslationReply,
    WordObject,
)
from whisper_server.api.requests.bodies import (
    FormBody,
    HeardTrack,
    JsonBody,
    TranslationForm,
    TranslationJson,
)
from whisper_server.api.requests.read import (
    TranscriptionRequest,
    read_transcription,
    read_translation,
    validated,
)
from whisper_server.api.requests.upload import Upload, read_upload
from whisper_server.core.languages import parse_language
from whisper_server.core.types import (
    AudioInfo,
    AudioLevels,
    Segment,
    Track,
    TrackChoice,
    seconds_by_language,
)
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.rendering.formats import (
    TIMED_FORMATS,
    logprob_objects,
    timed_segment,
    word_objects,
)
from whisper_server.services.speech import vad

router = APIRouter(responses=OVERLOADED)


_BODIES = bodies_of(FormBody, JsonBody)
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_TRANSLATIONS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The translation.", "model": TranslationReply, "content": _TEXT}
}
_STREAM_EXAMPLE = (
    "event: transcript.text.delta\n"
    'data: {"type":"transcript.text.delta","delta":"Good morning."}\n\n'
    "event: transcript.text.done\n"
    'data: {"type":"transcript.text.done","text":"Good morning."}\n\n'
)
_TRANSCRIPTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript. A JSON request for format json, the default, gets its own shape. "
        "With `stream`: one event per phrase, then one with the whole text.",
        "model": FormReply | JsonReply | DiarizedReply,
        "content": {
            **_TEXT,
            sse.MEDIA_TYPE: {
                "schema": {
                    "type": "string",
                    "description": "Lines `event: <type>` and `data: <JSON>`: a DeltaEvent per phrase, with "
                    "verbose_json and diarized_json a SegmentEvent after each, the DoneEvent, or an error.",
                },
                "example": _STREAM_EXAMPLE,
            },
        },
    }
}


@router.post(
    "/v1/audio/transcriptions", response_class=Response, responses=_TRANSCRIPTS, openapi_extra=_BODIES
)
async def create_transcription(admitted: AdmittedDep) -> Response:
    """Turn speech into text. As a form: OpenAI's contract. As JSON: see `JsonBody` and `JsonReply`."""
    started = time.monotonic()
    wanted = await read_transcription(admitted)
    admitted.log["format"] = "stream" if wanted.stream else wanted.response_format
    if wanted.job is not None:
        return await submitted(admitted, wanted, wanted.job)
    work = Transcribing(admitted, wanted.upload, wanted.model, wanted.params)
    if wanted.stream:
        return sse.EventStream(_events(work, wanted))
    transcript, info = await work.transcribe()
    if wanted.upload.is_json and wanted.response_format == "json":
        reply = JsonReply(
            text=transcript.text,
            processing_time=round(time.monotonic() - started, 3),
            model=wanted.model,
            format=info.format,
            languages=_languages(wanted, transcript.segments),
            logprobs=_logprobs(wanted, transcript.segments),
        )
        return reply_of(admitted, reply.model_dump_json(exclude_none=True))
    return await rendered(admitted, wanted, transcript)


def _languages(wanted: TranscriptionRequest, segments: Sequence[Segment]) -> list[LanguageCode] | None:
    """Return the languages that were heard, most first, none for silence, where the reply says which."""
    if not wanted.params.shows_languages:
        return None
    return [LanguageCode(code=code) for code in seconds_by_language(segments)]


def _logprobs(wanted: TranscriptionRequest, segments: Sequence[Segment]) -> list[TokenLogprob] | None:
    """Return how sure the model is of each token, where that was asked for."""
    if not wanted.params.logprobs:
        return None
    return [TokenLogprob(**each) for each in logprob_objects(segments)]


@router.post(
    "/v1/audio/translations",
    response_class=Response,
    responses=_TRANSLATIONS,
    openapi_extra=bodies_of(TranslationForm, TranslationJson),
)
async def create_translation(admitted: AdmittedDep) -> Response:
    """Turn speech of any language into English text; the model must have learnt it (not the turbo one)."""
    wanted = await read_translation(admitted)
    admitted.log["format"] = wanted.response_format
    if wanted.job is not None:
        return await submitted(admitted, wanted, wanted.job)
    work = Transcribing(admitted, wanted.upload, wanted.model, wanted.params)
    transcript, _ = await work.transcribe()
    return await rendered(admitted, wanted, transcript)


async def _events(work: Transcribing, wanted: TranscriptionRequest) -> AsyncGenerator[bytes, None]:
    """Tell what each phrase adds to the text, and when it is spoken where the format has times; then all."""
    parts: list[str] = []
    said: list[Segment] = []
    is_timed = wanted.response_format in TIMED_FORMATS
    async with contextlib.aclosing(work.phrases()) as found:
        async for delta, segment in found:
            parts.append(delta)
            said.append(segment)
            timed = SegmentEvent(**timed_segment(len(said), segment)) if is_timed else None
            event = DeltaEvent(
                type="transcript.text.delta",
                delta=delta,
                language=segment.language,
                segment_id=None if timed is None else timed.id,
                logprobs=_logprobs(wanted, [segment]),
            )
            frames = sse.event(event.model_dump(exclude_none=True))
            if timed is not None:
                timed.words = _words(wanted, segment)
                frames += sse.event(timed.model_dump(exclude_none=True))
            yield frames
    done = DoneEvent(
        type="transcript.text.done",
        text="".join(parts),
        languages=_languages(wanted, said),
        logprobs=_logprobs(wanted, said),
    )
    yield sse.event(done.model_dump(exclude_none=True))


def _words(wanted: TranscriptionRequest, segment: Segment) -> list[WordObject] | None:
    """Return the words of a phrase, where their times were asked for."""
    if not wanted.params.word_timestamps:
        return None
    return [WordObject(**each) for each in word_objects(segment)]


@router.post("/debug/audio-info", openapi_extra=_BODIES)
async def audio_info(admitted: AdmittedDep) -> AudioInfoReply:
    """Tell what the audio is without transcribing it; takes the same bodies as a transcription."""
    upload = await read_upload(admitted)
    asked = validated(HeardTrack, upload.fields)
    choice = TrackChoice(asked.audio_track, parse_language(asked.language))
    return await until_disconnect(admitted.request.receive, _inspect(admitted, upload, choice))


async def _inspect(admitted: Admitted, upload: Upload, choice: TrackChoice) -> AudioInfoReply:
    services = admitted.services
    with named_as(upload.param):
        stream = await services.pool.run(
            services.audio.open, upload.data, None, choice, unclaimed=AudioStream.close
        )
        durations = services.pool.iterate(_speech_seconds(stream))
        speech_s = 0.0
        try:
            expect(admitted, stream.info)
            async with contextlib.aclosing(durations):  # type: ignore[type-var]
                async for duration_s in durations:
                    speech_s += duration_s
                    admitted.slot.progress(0.0, stream.position_s)
        finally:
            stream.close()  # ends a step that still runs after a disconnect
    return _audio_info_reply(len(upload.data), stream.info, stream.levels(), speech_s)


def _speech_seconds(stream: AudioStream) -> Generator[float, None, None]:
    """Yield how long each stretch of speech is, and 0 now and then; runs on the pool."""
    for _ in stream.settle():
        yield 0.0
    for span in vad.steps(stream.blocks(), vad.TIGHT):
        yield span.end_s - span.start_s if span is not None else 0.0


def _audio_info_reply(
    size_bytes: int, info: AudioInfo, levels: AudioLevels, speech_s: float
) -> AudioInfoReply:
    return AudioInfoReply(
        size_bytes=size_bytes,
        format=info.format,
        container=info.container,
        codec=info.codec,
        duration_s=round(levels.duration_s, 3),
        sample_rate_hz=info.sample_rate_hz,
        channels=info.channels,
        peak_dbfs=_finite(levels.peak_dbfs),
        rms_dbfs=_finite(levels.rms_dbfs),
        speech_s=round(speech_s, 3),
        audio_track=info.track,
        tracks=[_audio_track(track) for track in info.tracks],
    )


def _audio_track(track: Track) -> AudioTrack:
    return AudioTrack(
        index=track.index,
        codec=track.codec or None,
        language=track.language or None,
        default=track.is_default,
        channels=track.channels,
        sample_rate_hz=track.sample_rate_hz,
        start_s=round(track.start_s, 3),
    )


def _finite(level_dbfs: float) -> float | None:
    """Return the level as JSON can say it: silence is minus infinity."""
    return round(level_dbfs, 2) if math.isfinite(level_dbfs) else None
