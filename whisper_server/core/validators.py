"""Pure checks of what a request says; each returns the checked value or raises a core error.

Must not know of HTTP, audio formats or models. Formats are checked by `services.rendering.formats`, a
language by `core.languages`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from whisper_server.core.chat_audio import data_of, newest_spoken
from whisper_server.core.errors import InvalidRequest, PayloadTooLarge, UnknownLanguage
from whisper_server.core.languages import parse_language
from whisper_server.core.types import VoiceOptions

GRANULARITIES = ("word", "segment")
MAX_PROMPT_CHARS = 10_000  # the model sees its last 224 tokens; what is before them is only work
MAX_TEXT_CHARS = 1 << 18  # of a text that is to be timed: four hours have about so many
MAX_KEYWORDS = 100  # more do not fit into the model's context
MAX_KEYWORD_CHARS = 1_000
MIN_SEED, MAX_SEED = -(2**63), 2**63 - 1  # as the chat API has it: 64 bits
MAX_SPEAKERS = 4  # of the hosted API
MAX_SPEAKER_CHARS = 100
MAX_REFERENCE_BYTES = 6 << 20  # of a sample of a voice: 10 s of the largest usual WAV
MOST_SPEAKERS = 20  # that a request may ask for
SPEAKER_FORMATS = ("diarized_json", "verbose_json", "text", "srt", "vtt")  # what has a place for speakers
INCLUDABLE = ("logprobs",)
STREAMED_FORMATS = ("json", "text", "verbose_json", "diarized_json")  # what events have a place for

OPENROUTER_FIELD = "input_audio"  # of a JSON request, where OpenRouter's clients put the audio

_DATA_URL = re.compile(rb"\s*data:[^,]{0,200}?;base64,", re.IGNORECASE)
_NO_ASCII = re.compile(rb"[\x80-\xff]{1,4}")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")  # the url-safe alphabet
_WHITESPACE = b" \t\r\n\v\f"
_CHUNK_BYTES = 1 << 20  # other threads run between two chunks

_SHAPE = '{"audio": "<base64 of the file\'s bytes>", "model": "whisper-1", "language": "auto"}'


def decode_base64(text: str | bytes, max_bytes: int) -> bytes:
    """Decode audio that came as text or as its bytes; the standard and the url-safe alphabet, padded or not.

    White space and a `data:...;base64,` prefix are left out. The size is checked before decoding. Beside the
    text and the result there is at most one more copy of the result.

    Raises:
        InvalidRequest: it is no base64.
        PayloadTooLarge: the bytes would be more than `max_bytes`.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise _wrong_base64(f"it holds the character {text[error.start]!a}") from error
    if not raw.isascii() and (other := _NO_ASCII.search(raw)):
        raise _wrong_base64(f"it holds the character {other[0].decode('utf-8', 'replace')[0]!a}")
    prefix = _DATA_URL.match(raw)
    start = prefix.end() if prefix else 0
    n_digits = sum(map(len, _digits(raw, start)))
    if n_digits * 3 // 4 > max_bytes:
        raise PayloadTooLarge(max_bytes, n_digits * 3 // 4)
    if n_digits % 4 == 1:
        raise _wrong_base64("a character is missing or one too many")
    try:
        return b"".join(_decoded(_digits(raw, start)))
    except ValueError as error:
        raise _wrong_base64("it holds a character that base64 does not have") from error


def _digits(raw: bytes, start: int) -> Iterator[bytes]:
    """Yield the text in chunks, in the standard alphabet, without white space and without the padding."""
    is_over = False
    for first in range(start, len(raw), _CHUNK_BYTES):
        chunk = raw[first : first + _CHUNK_BYTES].translate(_TO_STANDARD, _WHITESPACE)
        digits, padding, rest = (b"", b"=", chunk) if is_over else chunk.partition(b"=")
        is_over = bool(padding)
        if rest.strip(b"="):
            raise _wrong_base64("there is a = before its end")
        yield digits


def _decoded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decode in chunks: one call over tens of megabytes would block every other thread."""
    left = b""
    for chunk in chunks:
        chunk = left + chunk  # noqa: PLW2901
        whole = len(chunk) // 4 * 4
        left = chunk[whole:]
        yield base64.b64decode(chunk[:whole], validate=True)
    yield base64.b64decode(left + b"=" * (-len(left) % 4), validate=True)


def _wrong_base64(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The audio is not valid base64: {reason}. Send the file's bytes, encoded as base64.", param="audio"
    )


def without_surrogates(value: Any) -> Any:
    """Return a JSON value with lone surrogates replaced: escapes can write them, but no UTF-8 can."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(item) for name, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list) else value


def find_audio(body: object) -> str:
    """Return the base64 text of a JSON request, from any of the places that clients use.

    The first of these: `audio`, `audio_options.data`, `input_audio.data`, `messages[].content`. Of several
    messages or parts with audio the last one counts: a client asks about the newest turn of a conversation.
    `audio` may also be an object with `data`.

    Raises:
        InvalidRequest: there is none.
    """
    if not isinstance(body, Mapping):
        raise InvalidRequest(f"The request body is not a JSON object. Send {_SHAPE}.", param="audio")
    for field in ("audio", "audio_options", OPENROUTER_FIELD):
        if data := data_of(body.get(field)):
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


def check_seed(value: int) -> int:
    """Return the seed of random draws, a whole number of 64 bits.

    Raises:
        InvalidRequest: it is larger.
    """
    if not MIN_SEED <= value <= MAX_SEED:
        raise InvalidRequest(f"seed is too large. Use a number from {MIN_SEED} to {MAX_SEED}.", param="seed")
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


def check_languages(languages: Iterable[str], language: str | None) -> tuple[str, ...]:
    """Return the codes to choose from, each once; none where one of them is "auto".

    Raises:
        UnknownLanguage: Whisper has no such language.
        InvalidRequest: `language`, a code, is not among them.
    """
    try:
        codes = tuple(dict.fromkeys(parse_language(value) for value in languages))
    except UnknownLanguage as error:
        error.param = "languages"
        raise
    found = tuple(code for code in codes if code is not None)
    if len(found) < len(codes):
        return ()
    if language and found and language not in found:
        raise InvalidRequest(
            f"language is {language}, which is not among languages: {', '.join(found)}. Send one of them.",
            param="language",
        )
    return found


def check_keywords(keywords: Iterable[str]) -> tuple[str, ...]:
    """Return the words to expect, each once and on one line, empty ones left out.

    Raises:
        InvalidRequest: they are too many or too long.
    """
    found = tuple(dict.fromkeys(" ".join(keyword.split()) for keyword in keywords))
    if len(found) > MAX_KEYWORDS:
        raise InvalidRequest(f"There are more than {MAX_KEYWORDS} keywords.", param="keywords")
    if any(len(keyword) > MAX_KEYWORD_CHARS for keyword in found):
        raise InvalidRequest(
            f"A keyword has more than {MAX_KEYWORD_CHARS} characters; use words and short phrases.",
            param="keywords",
        )
    return tuple(keyword for keyword in found if keyword)


def check_speakers(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of channels or voices in order, each on one line; empty for a channel without one.

    Raises:
        InvalidRequest: they are too many or too long.
    """
    found = tuple(" ".join(name.split()) for name in names)
    given = [name for name in found if name]
    if len(found) > MAX_SPEAKERS or any(len(name) > MAX_SPEAKER_CHARS for name in given):
        raise InvalidRequest(
            f"Send at most {MAX_SPEAKERS} known_speaker_names, of {MAX_SPEAKER_CHARS} characters each.",
            param="known_speaker_names",
        )
    if len(set(given)) < len(given):
        raise InvalidRequest(
            "Two of the known_speaker_names are the same. Send another name for each speaker.",
            param="known_speaker_names",
        )
    return found


def check_voices(
    names: Sequence[str],
    references: Sequence[str],
    num_speakers: int | None,
    min_speakers: int | None,
    max_speakers: int | None,
) -> VoiceOptions:
    """Return what is known of speakers who are told apart by voice; decodes the samples.

    Raises:
        InvalidRequest: samples are too many or too few for the names, or no base64; or a number of speakers
            is impossible.
        PayloadTooLarge: a sample has more than MAX_REFERENCE_BYTES.
    """
    param = "known_speaker_references"
    if references and len(references) != len([name for name in names if name]):
        raise InvalidRequest(
            f"There are {len(references)} known_speaker_references, and {len(names)} known_speaker_names. "
            "Send a sample for each name.",
            param=param,
        )
    least, most = _speaker_count(num_speakers, min_speakers, max_speakers)
    try:
        samples = tuple(decode_base64(reference, MAX_REFERENCE_BYTES) for reference in references)
    except InvalidRequest as error:
        reason = str(error).removeprefix("The audio is not valid base64: ").partition(". Send")[0]
        raise InvalidRequest(
            f"A sample of a voice is not valid base64: {reason}. Send 2 to 10 s of it as a data: URL.",
            param=param,
        ) from error
    return VoiceOptions(samples, least, most)


def _speaker_count(num: int | None, least: int | None, most: int | None) -> tuple[int, int | None]:
    """Return how many speakers there are at least and at most."""
    for name, value in (("num_speakers", num), ("min_speakers", least), ("max_speakers", most)):
        if value is not None and not 1 <= value <= MOST_SPEAKERS:
            raise InvalidRequest(f"{name} is {value}. Use a number from 1 to {MOST_SPEAKERS}.", param=name)
    if num is not None:
        if least not in {None, num} or most not in {None, num}:
            raise InvalidRequest(
                "num_speakers says how many speakers there are; leave min_speakers and max_speakers out.",
                param="num_speakers",
            )
        return num, num
    if least is not None and most is not None and least > most:
        raise InvalidRequest(
            f"min_speakers is {least}, which is more than max_speakers, {most}.", param="min_speakers"
        )
    return least or 1, most


def check_speaker_format(response_format: str) -> None:
    """Check that a format has a place for speakers.

    Raises:
        InvalidRequest: it has none.
    """
    if response_format not in SPEAKER_FORMATS:
        raise InvalidRequest(
            f"diarize does not go with response_format {response_format}. Use one of: "
            f"{', '.join(SPEAKER_FORMATS)}.",
            param="response_format",
        )


def check_include(values: Iterable[str], response_format: str) -> tuple[str, ...]:
    """Return what is to be added to the reply; only json has a place for it.

    Raises:
        InvalidRequest: one is unknown, or the format has no place for it.
    """
    found = tuple(dict.fromkeys(values))
    for value in found:
        if value not in INCLUDABLE:
            raise InvalidRequest(
                f"include cannot be {value[:40]!r}. Use one of: {', '.join(INCLUDABLE)}.", param="include"
            )
    if found and response_format != "json":
        raise InvalidRequest(
            f"include={found[0]} needs response_format json, not {response_format}.", param="include"
        )
    return found


def check_text(text: str) -> str:
    """Return a text that is to be timed.

    Raises:
        InvalidRequest: it says nothing, or is too long.
    """
    if not any(char.isalnum() for char in text):
        raise InvalidRequest("There is no text. Send what is said in the recording in 'text'.", param="text")
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidRequest(f"The text has more than {MAX_TEXT_CHARS} characters.", param="text")
    return text


def check_streamed(response_format: str) -> None:
    """Check that the format can be streamed.

    Raises:
        InvalidRequest: it is made of cues, and events have no place for them.
    """
    if response_format not in STREAMED_FORMATS:
        raise InvalidRequest(
            f"stream does not go with response_format {response_format}. Use one of: "
            f"{', '.join(STREAMED_FORMATS)}; or leave stream out.",
            param="response_format",
        )
