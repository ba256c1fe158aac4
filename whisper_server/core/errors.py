"""Every error that a caller may see, as one tree.

    WhisperServerError                   500 server_error
    |-- InvalidRequest                   400 invalid_request_error
    |   |-- NotByChannel                 400 param response_format
    |   |-- UnknownLanguage              400 param language
    |   |-- UnsupportedEncoding          415 a body that is compressed
    |   |-- InvalidAudio                 400 param file
    |   |   |-- AudioTooLong             400
    |   |   |-- UnknownTrack             400 param audio_track
    |-- Unauthorized                     401 invalid_api_key
    |-- Forbidden                        403 a Host or Origin that is not configured
    |-- RouteNotFound                    404
    |-- ModelNotFound                    404 model_not_found
    |-- JobNotFound                      404 job_not_found
    |-- MethodNotAllowed                 405
    |-- UploadStalled                    408 the client sends too slowly
    |-- JobNotFinished                   409 job_not_finished; its result is not there, or never will be
    |-- PayloadTooLarge                  413 as the hosted API words it
    |   |-- RecordingTooLarge            413 raw samples of more seconds than allowed
    |-- Overloaded                       429 rate_limit_exceeded; too many requests are admitted
    |-- Unavailable                      503 try again later
    |   |-- ModelUnavailable             503 the hub cannot be reached, the folder is broken
    |   |   |-- ModelTooLarge            503 no retry helps
    |   |   |-- ModelNotOnDisk           503 no retry helps: downloads are forbidden
    |   |-- NoRoomForModel               503 models in use take all the room
    |   |-- ShuttingDown                 503
    |   |-- DeviceOutOfMemory            503
    |-- EngineFailure                    500 the same input would fail again
    ConfigError                          ends the start; never seen by a client

Class attributes carry what the OpenAI error object and the HTTP status line need; services raise
these, and only `api/errors.py` turns them into JSON. Messages say what was wrong, and what to do
about it.
"""

from __future__ import annotations


class WhisperServerError(Exception):
    """Base of everything below; also the answer to a bug of the server."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None
    retry_helps: bool = True

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(WhisperServerError):
    """A value of the request is wrong."""

    status = 400
    type = "invalid_request_error"
    retry_helps = False


class NotByChannel(InvalidRequest):
    """The channels of a recording are not its speakers."""


class UnknownLanguage(InvalidRequest):
    """A language that Whisper does not know."""

    param = "language"


class UnsupportedEncoding(InvalidRequest):
    """The request's body is compressed."""

    status = 415


class InvalidAudio(InvalidRequest):
    """The bytes are no audio that we can read."""

    param = "file"


class AudioTooLong(InvalidAudio):
    """The audio goes on for longer than the configured limit."""


class UnknownTrack(InvalidAudio):
    """The file has no audio track of this number, or none that can be decoded."""

    param = "audio_track"


class Unauthorized(WhisperServerError):
    """The API key is missing or wrong."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    retry_helps = False


class Forbidden(WhisperServerError):
    """The Host or Origin header is not one that the operator configured."""

    status = 403
    type = "invalid_request_error"
    retry_helps = False


class RouteNotFound(WhisperServerError):
    """No such path."""

    status = 404
    type = "invalid_request_error"
    retry_helps = False


class ModelNotFound(WhisperServerError):
    """A model name that is not configured."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    param = "model"
    retry_helps = False


class JobNotFound(WhisperServerError):
    """A job that is not there, or no longer."""

    status = 404
    type = "invalid_request_error"
    code = "job_not_found"
    retry_helps = False


class JobNotFinished(WhisperServerError):
    """A job has no result: not yet, or never."""

    status = 409
    type = "invalid_request_error"
    code = "job_not_finished"

    def __init__(self, message: str, *, retry_helps: bool = True) -> None:
        super().__init__(message)
        self.retry_helps = retry_helps


class MethodNotAllowed(WhisperServerError):
    """The path exists, but not for this method."""

    status = 405
    type = "invalid_request_error"
    retry_helps = False


class VersionNotSupported(WhisperServerError):
    """The request is of another HTTP than 1.0 and 1.1."""

    status = 505
    type = "invalid_request_error"
    retry_helps = False


class UploadStalled(WhisperServerError):
    """The request comes in too slowly; its slot is free again."""

    status = 408
    type = "invalid_request_error"


class PayloadTooLarge(WhisperServerError):
    """The request body or the file is over the size limit."""

    status = 413
    retry_helps = False

    def __init__(self, limit_bytes: int, size_bytes: int) -> None:
        super().__init__(
            f"Maximum content size limit ({limit_bytes}) exceeded ({size_bytes} bytes read). "
            "Send a smaller or compressed file, or raise MAX_AUDIO_FILE_SIZE_MB on the server."
        )


class RecordingTooLarge(PayloadTooLarge):
    """Samples without a header that would go on for longer than the configured limit."""

    def __init__(self, limit_s: float) -> None:
        WhisperServerError.__init__(
            self, f"The audio is longer than {limit_s:g} seconds, the limit (MAX_AUDIO_SECONDS)."
        )


class Overloaded(WhisperServerError):
    """As many requests are admitted as the limits allow; nothing is wrong with this one."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(WhisperServerError):
    """Nothing is wrong with the request; the server cannot serve it now."""

    status = 503
    retry_after_s = 5


class ModelUnavailable(Unavailable):
    """A configured model cannot be loaded: the hub does not answer, or its files are broken."""

    code = "model_unavailable"
    param = "model"


class ModelTooLarge(ModelUnavailable):
    """A model takes more memory than all models together may."""

    retry_helps = False


class ModelNotOnDisk(ModelUnavailable):
    """A model that is not in the cache, on a server that must not download it."""

    retry_helps = False


class NoRoomForModel(Unavailable):
    """Models in use take all the room that there is for models."""


class ShuttingDown(Unavailable):
    """The server is draining and takes no new work."""


class DeviceOutOfMemory(Unavailable):
    """The device has no memory for this batch; nothing of it was decoded."""


class OutOfMemory(Unavailable):
    """The server had no memory for this request at this moment; the next one may find some."""


class EngineFailure(WhisperServerError):
    """The engine failed on this input; the same input would fail again."""

    retry_helps = False


class ConfigError(Exception):
    """A setting is wrong; the message is one line that names it."""
