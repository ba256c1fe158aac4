"""Request body -> bytes and checked parameters.

Owns both encodings, multipart and JSON. Bodies stay in memory: nothing of an upload is written to disk.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from whisper_server.api.asgi import Scope, header
from whisper_server.api.deps import Admitted
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.errors import invalid_value
from whisper_server.api.requests.asr import is_raw
from whisper_server.api.requests.bodies import (
    AlignmentFields,
    DiarizationFields,
    InferenceFields,
    SpeakerFields,
    SubtitleFields,
    TranscriptionFields,
    TranslationFields,
)
from whisper_server.api.requests.form import from_form, read_form
from whisper_server.api.requests.json_text import parse_json
from whisper_server.core.chat_audio import data_of
from whisper_server.core.config import Settings
from whisper_server.core.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RecordingTooLarge,
    UnsupportedEncoding,
)
from whisper_server.core.languages import parse_language
from whisper_server.core.types import TrackChoice, TranscribeParams, VadOptions, VoiceOptions
from whisper_server.core.validators import (
    MAX_PROMPT_CHARS,
    OPENROUTER_FIELD,
    check_granularities,
    check_include,
    check_keywords,
    check_languages,
    check_seed,
    check_speaker_format,
    check_speakers,
    check_streamed,
    check_temperature,
    check_text,
    check_voices,
    decode_base64,
    find_audio,
)
from whisper_server.services.audio.pcm import BYTES_PER_SECOND
from whisper_server.services.model_files.names import tells_languages
from whisper_server.services.rendering.formats import (
    ALIGNMENT_FORMATS,
    DIARIZATION_FORMATS,
    SUBTITLE_FORMATS,
    TRANSLATED_FORMATS,
    check_format,
)
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options

F = TypeVar("F", bound=BaseModel)

FORM_OVERHEAD_BYTES = 1 << 20  # for everything in a request that is not audio

# Those of a translation and of /debug/audio-info are among them.
_FIELDS = frozenset().union(
    *(
        kind.model_fields
        for kind in (TranscriptionFields, InferenceFields, AlignmentFields, DiarizationFields)
    )
)


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent, of either encoding."""

    data: bytes
    fields: Mapping[str, Any]  # those that count, as they came; unchecked
    param: str  # what the client calls the audio: "file", "audio", "input_audio" or "messages"

    @property
    def held_bytes(self) -> int:
        """What it takes up in memory."""
        return len(self.data) + _size_of(self.fields)

    @property
    def is_json(self) -> bool:
        """Whether it came as the desktop app's JSON, whose replies have fields of their own."""
        return self.param == "audio"


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """A checked request for a transcription."""

    upload: Upload
    model: str  # as the client names it
    params: TranscribeParams
    response_format: str
    subtitles: SubtitleOptions
    stream: bool


def validated(kind: type[F], fields: Mapping[str, Any]) -> F:
    """Return the fields as their model; raises `InvalidRequest` that names the first wrong one."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise invalid_value(error.errors(include_url=False)) from error


def body_limit(scope: Scope, settings: Settings) -> tuple[int, Callable[[int], PayloadTooLarge]]:
    """Return how many bytes the body may have, and the error where it has more.

    Base64 writes three bytes as four. Raw samples are heard as they come in, and limited by their seconds.
    """
    if is_raw(scope["path"], dict(parse_qsl(scope["query_string"].decode("latin-1")))):
        limit_s = settings.max_audio_seconds
        return limit_s * BYTES_PER_SECOND + FORM_OVERHEAD_BYTES, lambda _: RecordingTooLarge(limit_s)
    audio_bytes = settings.max_audio_bytes
    is_form = (header(scope, b"content-type") or "").lower().startswith("multipart/form-data")
    limit_bytes = (audio_bytes if is_form else audio_bytes * 4 // 3) + FORM_OVERHEAD_BYTES
    return limit_bytes, partial(PayloadTooLarge, audio_bytes)


async def read_transcription(admitted: Admitted) -> TranscriptionRequest:
    """Read the body and check every parameter, the model's name last; the audio itself is not looked at.

    Raises:
        InvalidRequest: a parameter is wrong, or there is no audio.
        PayloadTooLarge: the audio is larger than the limit.
        ModelNotFound: the name of the model is not configured.
    """
    upload = await read_upload(admitted)
    fields = validated(TranscriptionFields, upload.fields)
    response_format = check_format(fields.response_format)
    if fields.stream:
        check_streamed(response_format)
    granularities = check_granularities(fields.timestamp_granularities, response_format)
    speakers, voices = None, VoiceOptions()
    if fields.diarize or response_format == "diarized_json":
        check_speaker_format(response_format)
        speakers, voices = await _speakers(admitted, fields)
    language = parse_language(fields.language)
    languages = check_languages(fields.languages, language)
    keywords = check_keywords((*fields.keywords, *fields.hotwords))
    temperature = check_temperature(fields.temperature)
    include = check_include(fields.include, response_format)
    subtitles = _subtitles(fields, response_format)
    model, source = admitted.model(fields.model)
    params = TranscribeParams(
        model=source,
        language=language,
        languages=languages,
        shows_languages=bool(languages) or tells_languages(model),
        language_switching=fields.language_switching,
        prompt=fields.prompt[-MAX_PROMPT_CHARS:],
        keywords=keywords,
        temperature=temperature,
        seed=check_seed(fields.seed),
        word_timestamps="word" in granularities or response_format in SUBTITLE_FORMATS,
        shows_segments=granularities != ("word",),
        logprobs="logprobs" in include,
        speakers=speakers,
        voices=voices,
        audio_track=fields.audio_track,
        vad=fields.chunking_strategy.options() if fields.chunking_strategy else VadOptions(),
        priority=fields.priority,
    )
    return TranscriptionRequest(upload, model, params, response_format, subtitles, fields.stream)


async def _speakers(admitted: Admitted, fields: SpeakerFields) -> tuple[tuple[str, ...], VoiceOptions]:
    """Return the names of speakers, and what else is known of them."""
    names = check_speakers(fields.known_speaker_names)
    voices = await admitted.services.pool.run(
        check_voices,
        names,
        fields.known_speaker_references,
        fields.num_speakers,
        fields.min_speakers,
        fields.max_speakers,
    )
    return names, voices


def _subtitles(fields: SubtitleFields, response_format: str) -> SubtitleOptions:
    """Return the limits of cues, checked where the format has any."""
    if response_format not in SUBTITLE_FORMATS:
        return SubtitleOptions()
    return check_options(fields.max_line_chars, fields.max_lines, fields.max_cue_seconds)


async def read_translation(admitted: Admitted) -> TranscriptionRequest:
    """Read the body of a translation; raises as `read_transcription`."""
    upload = await read_upload(admitted)
    fields = validated(TranslationFields, upload.fields)
    response_format = check_format(fields.response_format, TRANSLATED_FORMATS)
    temperature = check_temperature(fields.temperature)
    subtitles = _subtitles(fields, response_format)
    model, source = admitted.model(fields.model)
    params = TranscribeParams(
        model=source,
        task="translate",
        language_switching=fields.language_switching,
        prompt=fields.prompt[-MAX_PROMPT_CHARS:],
        temperature=temperature,
        seed=check_seed(fields.seed),
        word_timestamps=response_format in SUBTITLE_FORMATS,
        audio_track=fields.audio_track,
        priority=fields.priority,
    )
    return TranscriptionRequest(upload, model, params, response_format, subtitles, stream=False)


async def read_inference(admitted: Admitted) -> TranscriptionRequest:
    """Read the body of whisper.cpp's clients; raises as `read_transcription`."""
    upload = await read_upload(admitted)
    fields = validated(InferenceFields, upload.fields)
    response_format = check_format(fields.response_format, TRANSLATED_FORMATS)
    temperature = check_temperature(fields.temperature)
    language = None if fields.detect_language else parse_language(fields.language)
    model, source = admitted.model(fields.model)
    params = TranscribeParams(
        model=source,
        task="translate" if fields.translate else "transcribe",
        language=language,
        prompt=fields.prompt[-MAX_PROMPT_CHARS:],
        temperature=temperature,
        word_timestamps=response_format in SUBTITLE_FORMATS,
        audio_track=fields.audio_track,
        priority=fields.priority,
    )
    return TranscriptionRequest(upload, model, params, response_format, SubtitleOptions(), stream=False)


@dataclass(frozen=True, slots=True)
class AlignmentRequest:
    """A checked request for an alignment."""

    upload: Upload
    model: str  # as the client names it
    params: TranscribeParams
    text: str
    response_format: str
    subtitles: SubtitleOptions


async def read_alignment(admitted: Admitted) -> AlignmentRequest:
    """Read the body of an alignment; raises as `read_transcription`."""
    upload = await read_upload(admitted)
    fields = validated(AlignmentFields, upload.fields)
    response_format = check_format(fields.response_format, ALIGNMENT_FORMATS)
    text = check_text(fields.text)
    language = parse_language(fields.language)
    subtitles = _subtitles(fields, response_format)
    model, source = admitted.model(fields.model)
    params = TranscribeParams(
        model=source,
        language=language,
        audio_track=fields.audio_track,
        priority=fields.priority,
    )
    return AlignmentRequest(upload, model, params, text, response_format, subtitles)


@dataclass(frozen=True, slots=True)
class DiarizationRequest:
    """A checked request for who speaks when."""

    upload: Upload
    names: tuple[str, ...]
    voices: VoiceOptions
    track: TrackChoice
    response_format: str


async def read_diarization(admitted: Admitted) -> DiarizationRequest:
    """Read the body of a diarization; raises as `read_transcription`, but for the model."""
    upload = await read_upload(admitted)
    fields = validated(DiarizationFields, upload.fields)
    response_format = check_format(fields.response_format, DIARIZATION_FORMATS)
    names, voices = await _speakers(admitted, fields)
    track = TrackChoice(fields.audio_track, parse_language(fields.language))
    return DiarizationRequest(upload, names, voices, track, response_format)


async def read_upload(admitted: Admitted) -> Upload:
    """Read the body into memory, whatever its encoding, and keep what counts of it.

    Raises:
        InvalidRequest: it is neither a form nor JSON, or has no audio.
        PayloadTooLarge: base64 of more bytes than the limit.
        Overloaded: there is no room for so many bytes now.
        UploadStalled: the client sends too slowly.
        ClientDisconnected: the client left before the end of the body.
    """
    services = admitted.services
    content_type = admitted.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    upload = None
    try:
        if content_type == "multipart/form-data":
            upload = await _read_form(admitted)
        if content_type == "application/json":
            limit_bytes = services.settings.max_audio_bytes
            upload = await services.pool.run(_upload_of, await read_body(admitted), limit_bytes)
    except ClientDisconnect as error:
        raise ClientDisconnected from error
    if upload is not None:
        admitted.slot.keep(upload.held_bytes)
        return upload
    raise InvalidRequest(
        "Send the audio as multipart/form-data with the field 'file', or as application/json with the field "
        "'audio'. The content type was " + (repr(content_type[:80]) if content_type else "missing") + ".",
        param="file",
    )


async def read_body(admitted: Admitted) -> bytearray:
    """Return the whole body; raises `Overloaded` where there is no room for it."""
    body = bytearray()  # in its place: a list of chunks and what joins them would be twice as much
    async for chunk in _received(admitted):
        body += chunk
    return body


async def _received(admitted: Admitted) -> AsyncIterator[bytes]:
    """Yield the body as it comes in, counted: not every client declares its length.

    Raises:
        UnsupportedEncoding: it is compressed, which no audio gains from, and which hides its size.
    """
    encoding = admitted.request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedEncoding(
            f"The body is compressed: its Content-Encoding is {encoding[:40]!r}. Send it as it is."
        )
    async for chunk in admitted.request.stream():
        admitted.slot.receive(len(chunk))
        yield chunk


async def _read_form(admitted: Admitted) -> Upload:
    form = await read_form(admitted.request.headers["content-type"], _received(admitted))
    if form.file is None:
        raise InvalidRequest(
            "The form has no file. Send the audio in the field 'file', for example with "
            "curl -F file=@speech.wav.",
            param="file",
        )
    fields = from_form(form.fields)
    return Upload(bytes(form.file), {name: fields[name] for name in fields.keys() & _FIELDS}, "file")


def _upload_of(body: bytearray, max_bytes: int) -> Upload:
    """Parse and decode; runs on the pool."""
    parsed = parse_json(body)
    found = find_audio(parsed.value)
    param = OPENROUTER_FIELD if found is data_of(parsed.value.get(OPENROUTER_FIELD)) else "audio"
    try:
        return Upload(decode_base64(parsed.content(found), max_bytes), parsed.fields(_FIELDS), param)
    except InvalidRequest as error:
        error.param = param
        raise


def _size_of(value: Any) -> int:
    """Return what a value of a request takes up, roughly: its texts, and what holds them."""
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        size += sum(_size_of(name) + _size_of(item) for name, item in value.items())
    elif isinstance(value, list | tuple):
        size += sum(map(_size_of, value))
    return size
