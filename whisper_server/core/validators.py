"""Pure checks of what a request says; each returns the checked value or raises a core error.

Must not know of HTTP, audio formats or models. Formats are checked by `services.formats`, languages by
`core.languages`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from whisper_server.core.errors import InvalidRequest, PayloadTooLarge
from whisper_server.core.messages import data_of, newest_spoken

GRANULARITIES = ("word", "segment")
STREAMED_FORMATS = ("json", "text")  # those whose body is the text, which is what events carry

_DATA_URL = re.compile(r"\s*data:[^,]{0,200}?;base64,", re.IGNORECASE)
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")  # the url-safe alphabet
_WHITESPACE = b" \t\r\n\v\f"
_CHUNK_CHARS = 1 << 20  # a multiple of 4; other threads run between two chunks

_SHAPE = '{"audio": "<base64 of the file\'s bytes>", "model": "whisper-1", "language": "auto"}'


def too_large(limit_bytes: int, size_bytes: int) -> PayloadTooLarge:
    """Return the error for `size_bytes` where `limit_bytes` are allowed, worded as the hosted API does."""
    return PayloadTooLarge(
        f"Maximum content size limit ({limit_bytes}) exceeded ({size_bytes} bytes read). "
        "Send a smaller file, or raise MAX_AUDIO_FILE_SIZE_MB."
    )


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Decode audio that came as text; the standard and the url-safe alphabet, padded or not.

    White space and a `data:...;base64,` prefix are left out. The size is checked before decoding.

    Raises:
        InvalidRequest: it is no base64.
        PayloadTooLarge: the bytes would be more than `max_bytes`.
    """
    prefix = _DATA_URL.match(text)
    try:
        raw = text[prefix.end() if prefix else 0 :].encode("ascii")
    except UnicodeEncodeError as error:
        raise _wrong_base64(f"it holds the character {text[error.start]!a}") from error
    digits = raw.translate(_TO_STANDARD, _WHITESPACE).rstrip(b"=")
    size_bytes = len(digits) * 3 // 4
    if size_bytes > max_bytes:
        raise too_large(max_bytes, size_bytes)
    if b"=" in digits:
        raise _wrong_base64("there is a = before its end")
    if len(digits) % 4 == 1:
        raise _wrong_base64("a character is missing or one too many")
    try:
        return b"".join(_decoded(digits + b"=" * (-len(digits) % 4)))
    except ValueError as error:
        raise _wrong_base64("it holds a character that base64 does not have") from error


def _decoded(padded: bytes) -> Iterator[bytes]:
    """Decode in chunks: one call over tens of megabytes would hold up every other thread."""
    for first in range(0, len(padded), _CHUNK_CHARS):
        yield base64.b64decode(padded[first : first + _CHUNK_CHARS], validate=True)


def _wrong_base64(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The audio is not valid base64: {reason}. Send the file's bytes, encoded as base64.", param="audio"
    )


def find_audio(body: object) -> str:
    """Return the base64 text of a JSON request, wherever its client puts it.

    The first that is there: `audio`, `audio_options.data`, `messages[].content`. Of several messages or
    parts with audio the last one counts: it is the newest turn of a conversation, which is what the
    client asks about. `audio` may also be an object with `data`.

    Raises:
        InvalidRequest: there is none.
    """
    if not isinstance(body, Mapping):
        raise InvalidRequest(f"The request body is not a JSON object. Send {_SHAPE}.", param="audio")
    if data := data_of(body.get("audio")) or data_of(body.get("audio_options")):
        return data
    if spoken := newest_spoken(body.get("messages")):
        return spoken.data
    raise InvalidRequest(f"The request has no audio. Send {_SHAPE}.", param="audio")


def check_temperature(value: float) -> float:
    """Return a sampling temperature from 0 to 1.

    Raises:
        InvalidRequest: it is outside, or no number.
    """
    if math.isnan(value) or not 0.0 <= value <= 1.0:
        raise InvalidRequest(
            f"temperature is {value}. Use a number from 0 to 1; 0 is the most accurate.", param="temperature"
        )
    return value


def check_granularities(values: Iterable[str], response_format: str) -> tuple[str, ...]:
    """Return the timestamp granularities; the times of words only fit into verbose_json.

    Raises:
        InvalidRequest: one is unknown, or the format has no place for it.
    """
    found = tuple(dict.fromkeys(values))
    for value in found:
        if value not in GRANULARITIES:
            raise InvalidRequest(
                f"Unknown timestamp granularity {value[:40]!r}. Use one of: {', '.join(GRANULARITIES)}.",
                param="timestamp_granularities",
            )
    if "word" in found and response_format != "verbose_json":
        raise InvalidRequest(
            f"Word timestamps need response_format verbose_json, not {response_format}.",
            param="timestamp_granularities",
        )
    return found


def check_streamed(response_format: str) -> None:
    """Check that the format can be streamed.

    Raises:
        InvalidRequest: it has more than text, and events have no place for that.
    """
    if response_format not in STREAMED_FORMATS:
        raise InvalidRequest(
            f"stream does not go with response_format {response_format}. Use {' or '.join(STREAMED_FORMATS)},"
            " or leave stream out.",
            param="response_format",
        )
