"""Request body -> bytes and checked parameters.

Owns both encodings, multipart and JSON. Bodies stay in memory: nothing of an upload is written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from whisper_server.api.asgi import Scope, header
from whisper_server.api.deps import Admitted
from whisper_server.api.errors import invalid_value
from whisper_server.api.requests.asr import is_raw
from whisper_server.api.requests.bodies import (
    AlignmentFields,
    DiarizationFields,
    InferenceFields,
    JobFields,
    SpeakerFields,
    SubtitleFields,
    TranscriptionFields,
    TranslationFields,
)
from whisper_server.api.requests.upload import FILE_URL, Upload, read_upload
from whisper_server.core.config import Settings
from whisper_server.core.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RecordingTooLarge,
)
from whisper_server.core.languages import parse_language
from whisper_server.core.types import TrackChoice, TranscribeParams, VadOptions, VoiceOptions
from whisper_server.core.validators import (
    MAX_PROMPT_CHARS,
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
)
from whisper_server.services.audio.pcm import BYTES_PER_SECOND
from whisper_server.services.jobs.outside import OutsideHosts
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


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What a request with `background` asks for beside its transcript."""

    shows_words: bool  # in verbose_json
    callback_url: str | None
    file_url: str | None  # where the upload is still to be had; its data is empty then


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """A checked request for a transcription."""

    upload: Upload
    model: str  # as the client names it
    params: TranscribeParams
    response_format: str
    subtitles: SubtitleOptions
    stream: bool
    job: JobOrder | None = None  # where the work is to go on without the request


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
    upload = await read_upload(admitted, takes_url=True)
    fields = validated(TranscriptionFields, upload.fields)
    response_format = check_format(fields.response_format)
    if fields.stream:
        check_streamed(response_format)
        if fields.background:
            raise InvalidRequest("stream does not go with background: a job has its events.", param="stream")
    job = _job_order(fields, admitted, shows_words="word" in fields.timestamp_granularities)
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
    return TranscriptionRequest(upload, model, params, response_format, subtitles, fields.stream, job)


def _job_order(fields: JobFields, admitted: Admitted, *, shows_words: bool = False) -> JobOrder | None:
    """Return what a job is to do, None where none is asked for; its addresses are checked."""
    settings = admitted.services.settings
    for param, url, hosts, setting in (
        ("callback_url", fields.callback_url, settings.callback_hosts, "WHISPER_CALLBACK_HOSTS"),
        (FILE_URL, fields.file_url, settings.file_url_hosts, "WHISPER_FILE_URL_HOSTS"),
    ):
        if url and not fields.background:
            raise InvalidRequest(f"{param} needs background=true.", param=param)
        if url:
            OutsideHosts(hosts).check(url, param, setting)
    if not fields.background:
        return None
    return JobOrder(shows_words, fields.callback_url or None, fields.file_url or None)


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
    upload = await read_upload(admitted, takes_url=True)
    fields = validated(TranslationFields, upload.fields)
    job = _job_order(fields, admitted)
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
    return TranscriptionRequest(upload, model, params, response_format, subtitles, stream=False, job=job)


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
