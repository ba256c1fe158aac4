"""A request of the audio routes that becomes a job: its file is looked at and kept before the answer."""

from __future__ import annotations

from fastapi import Response

from whisper_server.api.deps import Admitted
from whisper_server.api.endpoints.transcribe import named_as
from whisper_server.api.replies.jobs import job_object
from whisper_server.api.requests.read import JobOrder, TranscriptionRequest
from whisper_server.core.errors import InvalidRequest, NotByChannel
from whisper_server.core.types import TrackChoice, VoiceOptions
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.channels import check_channels
from whisper_server.services.container import Services
from whisper_server.services.jobs import codec
from whisper_server.services.jobs.states import NewJob

MAX_KEY_CHARS = 255


async def submitted(admitted: Admitted, wanted: TranscriptionRequest, order: JobOrder) -> Response:
    """Keep the upload as a job and return it with 202.

    Raises:
        InvalidRequest: no jobs are taken here, the file is no audio, or the client's key is another's.
        Overloaded: there is enough to do.
    """
    jobs = admitted.services.jobs
    jobs.check_taken()
    # Where the file comes from elsewhere its size is not known: there is to be room for the largest.
    is_here = order.file_url is None
    seconds_total = await _look(admitted, wanted) if is_here else None
    size = len(wanted.upload.data) if is_here else admitted.services.settings.max_audio_bytes
    new = NewJob(
        endpoint=admitted.request.scope["path"],
        model=wanted.model,
        request=_request_text(wanted, order),
        seconds_total=seconds_total,
        upload_bytes=size,
        callback_url=order.callback_url,
        file_url=order.file_url,
    )
    job = await jobs.submit(new, [wanted.upload.data] if is_here else None, _key(admitted))
    admitted.log["job"] = job.id
    body = job_object(job, job.created_at).model_dump_json()
    headers = {"location": f"/v1/jobs/{job.id}"}
    return Response(body, status_code=202, media_type="application/json", headers=headers)


def _key(admitted: Admitted) -> str | None:
    """Return the client's name for this request, by which it is known when it comes again.

    draft-ietf-httpapi-idempotency-key-header.
    """
    key = admitted.request.headers.get("idempotency-key", "").strip(" \t")
    if len(key) > MAX_KEY_CHARS:
        raise InvalidRequest(
            f"The Idempotency-Key is longer than {MAX_KEY_CHARS} characters.", param="Idempotency-Key"
        )
    return key or None


async def _look(admitted: Admitted, wanted: TranscriptionRequest) -> float | None:
    """Read the header, as the work will; return the seconds that it claims."""
    services, params = admitted.services, wanted.params
    choice = TrackChoice(params.audio_track, params.language)
    with named_as(wanted.upload.param):
        stream = await services.pool.run(
            services.audio.open, wanted.upload.data, None, choice, unclaimed=AudioStream.close
        )
        with stream:
            info = stream.info
        # Of several tracks the work hears the first that has sound, which takes reading them.
        is_settled = len(info.tracks) == 1 or params.audio_track is not None
        if params.speakers is not None and is_settled:
            await _check_speakers(services, info.channels, params.speakers, params.voices)
        return info.header_duration_s


async def _check_speakers(
    services: Services, n_channels: int, names: tuple[str, ...], voices: VoiceOptions
) -> None:
    """Refuse at once what the header shows that the work would refuse; it compares channels itself."""
    if voices.are_given:
        await services.speakers.known(names, voices)
        return
    try:
        check_channels(n_channels)
    except NotByChannel as error:
        await services.speakers.known(names, voices, error)


def _request_text(wanted: TranscriptionRequest, order: JobOrder) -> str:
    request = codec.JobRequest(
        wanted.params,
        wanted.response_format,
        wanted.subtitles,
        shows_words=order.shows_words,
        shows_logprobs=wanted.params.logprobs,
    )
    return codec.request_text(request)
