"""Forms, headers, queries, addresses, events and fields of JSON: time and memory grow with their size.

JSON itself is in test_json_text.py, regular expressions are in test_patterns.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from python_multipart.multipart import parse_options_header
from starlette.datastructures import QueryParams

from tests.support.growth import check_linear
from tests.support.peak_memory import bounded_growth
from whisper_server.api.asgi import Receive, Scope, Send
from whisper_server.api.compat.addresses import own_address
from whisper_server.api.endpoints.realtime import _parsed
from whisper_server.api.middleware.auth import AuthMiddleware
from whisper_server.api.middleware.host_check import HostCheckMiddleware
from whisper_server.api.replies import sse
from whisper_server.api.requests.asr import AsrQuery
from whisper_server.api.requests.bodies import TranscriptionFields
from whisper_server.api.requests.form import from_form, read_form
from whisper_server.api.requests.json_text import LONG_BYTES, MAX_VALUES, parse_json
from whisper_server.api.requests.read import validated
from whisper_server.api.requests.streamed_part import StreamedPart
from whisper_server.core.chat_audio import newest_spoken
from whisper_server.core.errors import InvalidRequest, WhisperServerError
from whisper_server.core.language_tags import language_of_tag
from whisper_server.core.languages import parse_language
from whisper_server.core.settings.origins import DEFAULT_ORIGINS, matcher
from whisper_server.core.validators import check_keywords, check_languages, check_speakers, find_audio
from whisper_server.services.realtime.configuration import SessionConfig

Use = Callable[[int], Callable[[], object]]  # size -> what is done with an input of that size

BOUNDARY = "b" * 200
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CHUNK_BYTES = 1 << 16


def repeated(text: str, size: int) -> str:
    return text * (size // len(text))


async def chunks_of(body: bytes, chunk_bytes: int) -> AsyncGenerator[bytes, None]:
    for first in range(0, len(body), chunk_bytes):
        yield body[first : first + chunk_bytes]


async def read_part(chunks: AsyncIterable[bytes]) -> None:
    async for _ in StreamedPart(FORM, "file").chunks(chunks):
        pass


def form(head: str, inside: str, chunk_bytes: int = CHUNK_BYTES) -> list[Use]:
    """Read a form by both parsers."""

    def use(read: Callable[[AsyncIterable[bytes]], Any]) -> Use:
        def of(size: int) -> Callable[[], object]:
            body = f"--{BOUNDARY}\r\n{head}{repeated(inside, size)}".encode()
            return lambda: asyncio.run(read(chunks_of(body, chunk_bytes)))

        return of

    return [use(lambda chunks: read_form(FORM, chunks)), use(read_part)]


FILE = 'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
EMPTY_PART = f'Content-Disposition: form-data; name="a"\r\n\r\n\r\n--{BOUNDARY}\r\n'
FORMS = {
    "boundaries that are almost there": form(FILE, f"\r\n--{BOUNDARY[:-1]}c"),
    "beginnings of boundaries": form(FILE, "\r\n--bb"),
    "boundaries in chunks that cut them": form(FILE, f"\r\n--{BOUNDARY[:-1]}c", 1021),
    "carriage returns": form(FILE, "\r"),
    "line breaks": form(FILE, "\r\n"),
    "a name without end": form("Content-Disposition: form-data; name=", "a"),
    "a header's name without end": form("", "a"),
    "headers of a part": form("", "a: b\r\n"),
    "quotes in a header": form("Content-Disposition: form-data; name=", '\\"'),
    "parts without end": form("", EMPTY_PART),
    "junk before the first boundary": form("x", f"\r\n--{BOUNDARY[:-1]}c"),
    "a long field": form('Content-Disposition: form-data; name="text"\r\n\r\n', "x"),
}
BY_BYTES = {
    "line breaks": form(FILE, "\r\n", 1),
    "parts": form("", EMPTY_PART, 1),
    "a header": form("", "a", 1),
}


async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send


HOST_CHECK = HostCheckMiddleware(
    ignore, own_host="127.0.0.1", allowed_hosts=("*.example.org",), allowed_origins=matcher(DEFAULT_ORIGINS)
)
AUTH = AuthMiddleware(ignore, api_key="secret")


def header(app: Any, name: str, before: str = "", kind: str = "http") -> Callable[[str], object]:
    def use(text: str) -> object:
        scope = {
            "type": kind,
            "method": "POST",
            "path": "/v1/models",
            "headers": [(b"host", b"localhost:8000"), (name.encode(), (before + text).encode())],
        }
        scope["headers"] = [(n, v) for n, v in scope["headers"] if name != "host" or v != b"localhost:8000"]
        return asyncio.run(app(scope, None, None))

    return use


TEXTS: dict[str, Callable[[str], object]] = {
    "a Host header": header(HOST_CHECK, "host"),
    "an Origin header": header(HOST_CHECK, "origin", "http://"),
    "an Origin header of a scheme": header(HOST_CHECK, "origin"),
    "an Authorization header": header(AUTH, "authorization", "Bearer "),
    "a key of a WebSocket": header(AUTH, "sec-websocket-protocol", "", "websocket"),
    "a short-lived key": header(AUTH, "authorization", "Bearer ek_", "websocket"),
    "a content type": lambda text: parse_options_header("multipart/form-data; " + text),
    "a path": lambda text: own_address("/" + text),
    "a query": parse_qsl,
    "a query of /asr": lambda text: validated(AsrQuery, dict(QueryParams(text))),
    "a prompt in a query": lambda text: validated(AsrQuery, dict(QueryParams("initial_prompt=" + text))),
    "a language": parse_language,
    "a language's tag": language_of_tag,
    "languages": lambda text: check_languages(text.split(","), "en"),
    "keywords": lambda text: check_keywords(text.split(",")),
    "a keyword": lambda text: check_keywords([text]),
    "names of speakers": lambda text: check_speakers(text.split(",")),
    "names of fields": lambda text: from_form({name: ["a"] for name in text.split(",")}),
    "fields of a transcription": lambda text: validated(
        TranscriptionFields,
        from_form({"languages": text.split(","), "prompt": [text], "chunking_strategy": [text]}),
    ),
    "an event's text": lambda text: sse.event({"type": "transcript.text.delta", "delta": text}),
    "an event of the realtime API": _parsed,
    "a text in an event": lambda text: _parsed(json.dumps({"type": "a", "x": [text], "audio": text})),
}
REPEATED = [
    "a", "a,", ",", "/", "v1/", "openai/v1/", "openai/deployments/a/", ".", "a.", ":", "[", "]", "[a]", "@",
    "%", "%41", "&", "a=b&", "=", ";", "a=b;", '"', '\\"', 'a="', " ", "a ", "-", "_", "en,",
    "\N{LINE SEPARATOR}", "\u0130", "\u00e9", "\t", '{"a":', "[0,", "*", "'", "openai-insecure-api-key.a,",
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("shape", FORMS)
def test_forms_are_read_in_time_that_grows_with_them(shape: str) -> None:
    for use in FORMS[shape]:
        check_linear(lambda size, use=use: quiet(use(size)), 1 << 16, 1 << 19)  # type: ignore[misc]


@pytest.mark.long
@pytest.mark.parametrize("shape", BY_BYTES)
def test_forms_that_come_byte_by_byte(shape: str) -> None:
    for use in BY_BYTES[shape]:
        check_linear(lambda size, use=use: quiet(use(size)), 1 << 13, 1 << 15)  # type: ignore[misc]


@pytest.mark.long
@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_read_in_time_that_grows_with_them(name: str) -> None:
    for text in REPEATED:

        def work(size: int, text: str = text) -> Callable[[], object]:
            whole = repeated(text, size)
            return quiet(lambda: TEXTS[name](whole))

        check_linear(work, 1 << 15, 1 << 17)


def quiet(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with contextlib.suppress(WhisperServerError, ValueError):
            work()

    return run


@pytest.mark.parametrize("shape", FORMS)
def test_a_form_takes_little_more_than_itself(shape: str) -> None:
    for use in FORMS[shape]:
        quiet(use(2_000))()  # what the parser takes once for all forms
        work = quiet(use(2_000_000))
        with bounded_growth(3 * 2 + 4):
            work()


# --- values of JSON ---

SOUND = {"type": "input_audio", "input_audio": {"data": "QUJD"}}
PART = {"type": "input_audio", "input_audio": {"data": " "}}
VALUES: dict[str, Callable[[int], Any]] = {
    "messages without sound": lambda n: [{"role": "user", "content": "a"}] * n,
    "parts without sound": lambda n: [{"role": "user", "content": [PART] * n}],
    "parts with sound": lambda n: [{"role": "user", "content": [SOUND] * n}],
    "texts beside the sound": lambda n: [{"content": [*[{"type": "text", "text": "a "}] * n, SOUND]}],
    "messages of parts": lambda n: [{"content": [PART] * 10}] * (n // 10),
}


@pytest.mark.long
@pytest.mark.parametrize("shape", VALUES)
def test_sound_in_messages_is_found_in_time_that_grows_with_them(shape: str) -> None:
    def work(n: int) -> Callable[[], object]:
        messages = VALUES[shape](n)
        return quiet(lambda: (newest_spoken(messages), find_audio({"messages": messages})))

    check_linear(work, 1 << 12, 1 << 15)  # JSON has fewer values


SESSIONS: dict[str, Callable[[int], Any]] = {
    "keywords": lambda n: {"transcription": {"keywords": ["a"] * n}},
    "what are no keywords": lambda n: {"transcription": {"keywords": [1] * n}},
    "noise reduction": lambda n: {"noise_reduction": {str(i): i for i in range(n)}},
    "unknown fields": lambda n: {str(i): i for i in range(n)},
    "a turn detection": lambda n: {"turn_detection": {"type": "a" * n}},
    "a prompt": lambda n: {"transcription": {"prompt": "a" * n}},
}


@pytest.mark.parametrize("shape", SESSIONS)
def test_a_session_is_updated_in_time_that_grows_with_the_event(shape: str) -> None:
    def work(n: int) -> Callable[[], object]:
        update = {"audio": {"input": SESSIONS[shape](n)}, "include": ["a"] * n}

        def run() -> None:
            SessionConfig().updated(update).wire()
            SessionConfig().updated_flat({"include": ["a"] * n, **SESSIONS[shape](n)})

        return quiet(run)

    check_linear(work, 1 << 10, MAX_VALUES * 4)


def test_long_texts_beside_many_short_ones_are_read_in_time_that_grows_with_them() -> None:
    def work(size: int) -> Callable[[], object]:
        long, short = "a" * (LONG_BYTES + 1), "b" * (LONG_BYTES - 1)
        n = size // 2 // LONG_BYTES
        body = json.dumps({"x": [long] * n, "keywords": [short] * n}).encode()
        parsed = parse_json(body)
        return lambda: parsed.fields({"keywords"})

    check_linear(work, 1 << 21, 1 << 24)


def test_a_path_is_led_here_in_a_few_steps() -> None:
    assert own_address("/api/openai/v1/v1/v1/audio/translations").path == "/v1/audio/translations"
    assert re.fullmatch("(/v1)+", own_address("/v1" * 1000).path)


def test_a_boundary_is_short() -> None:
    with pytest.raises(InvalidRequest, match="oundary"):
        asyncio.run(read_form(f"multipart/form-data; boundary={'b' * 257}", chunks_of(b"", 1)))
