"""Form fields, file names and headers of every kind: a 2xx, or an error of ours with a status below 500."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import logging
import re
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Sample
from tests.support.audio_files import encode, tone
from tests.support.http_requests import HEARD, PARTS_OF_AN_ERROR, URL, b64, form
from tests.support.in_process import OpenClient
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.validators import decode_base64

SILENCE = encode(np.zeros(1_700, np.float32))
MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.text(max_size=40)
FIELDS = (
    *("model", "language", "languages", "languages[]", "prompt", "response_format", "temperature", "stream"),
    *(
        "timestamp_granularities[]",
        "include[]",
        "keywords[]",
        "hotwords",
        "chunking_strategy",
        "priority",
        "seed",
    ),
    *(
        "known_speaker_names[]",
        "known_speaker_references[]",
        "max_line_chars",
        "max_lines",
        "max_cue_seconds",
    ),
)
VALUES = st.one_of(
    TEXT,
    st.sampled_from(
        ["", "0", "-1", "1e308", "nan", "inf", "true", "null", "[]", "{}", '{"type":"server_vad"}', "auto",
         "en", "json", "srt", "vtt", "verbose_json", "diarized_json", "word", "logprobs", "x" * 70_000, "\0",
         "\u202e"]
    ),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip


def sound_reply(response: httpx.Response) -> None:
    """Check that the reply is a success, or an error of the client in OpenAI's shape."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == PARTS_OF_AN_ERROR
        assert len(error["message"]) < 2000
        assert "Traceback" not in response.text


async def run(loop_client: httpx.AsyncClient, **request: Any) -> None:
    sound_reply(await loop_client.post(URL, **request))


async def drawn(strategy: st.SearchStrategy[Any], check: Any) -> None:
    """Run an asynchronous check on what hypothesis draws: the draws on a thread, the checks on this loop."""
    loop = asyncio.get_running_loop()

    @MANY
    @given(strategy)
    def each(value: Any) -> None:
        asyncio.run_coroutine_threadsafe(check(value), loop).result(timeout=60)

    await asyncio.to_thread(each)


async def test_any_form_fields(client: httpx.AsyncClient) -> None:
    async def check(fields: dict[str, str]) -> None:
        await run(client, **form(SILENCE, **fields))

    await drawn(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5), check)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


async def test_any_json_fields(client: httpx.AsyncClient) -> None:
    audio = base64.b64encode(SILENCE).decode()

    async def check(fields: dict[str, Any]) -> None:
        content = json.dumps({"audio": audio, **fields})
        await run(client, content=content, headers={"content-type": "application/json"})

    names = st.sampled_from([name.removesuffix("[]") for name in FIELDS])
    await drawn(st.dictionaries(names, ANY_JSON | VALUES, max_size=4), check)


NAMES = [
    "../../etc/passwd",
    "C:\\Windows\\system32\\a.wav",
    "line\r\nbreak.wav",
    "\u202egpj.wav",
    "x" * 4096,
    "\0.wav",
    "a;b=c\"d'.wav",
    "%0d%0aSet-Cookie: a=b",
    "名前.wav",
    "con",
    "",
    " ",
]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
async def test_file_names_are_ignored_and_logs_stay_one_line(
    client: httpx.AsyncClient, speech: Sample, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        + name.encode().replace(b"\r\n", b"\n").replace(b'"', b"%22")
        + b'"\r\nContent-Type: audio/wav\r\n\r\n' + speech.data + b"\r\n--x--\r\n"
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "whisper_server"):
        response = await client.post(
            URL, content=body, headers={"content-type": "multipart/form-data; boundary=x"}
        )
    # A line break or a NUL in a header makes it no header; every other character is heard.
    if response.status_code == 200:
        assert HEARD.search(response.text)
    else:
        assert "\n" in name or "\0" in name
        sound_reply(response)
    lines = [record.getMessage() for record in caplog.records if record.name == "whisper_server.requests"]
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert not name.strip() or name not in caplog.text


BYTES = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80
)
CONTENT_TYPES = st.one_of(
    BYTES,
    BYTES.map(lambda text: f"multipart/form-data; boundary={text}"),
    BYTES.map(lambda text: f'multipart/form-data; boundary="{text}"'),
    BYTES.map(lambda text: f"application/json; charset={text}"),
)


async def test_any_content_type(client: httpx.AsyncClient) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + SILENCE
        + b"\r\n--x--\r\n"
    )

    async def check(content_type: str) -> None:
        await run(client, content=body, headers={"content-type": content_type.encode("latin-1")})

    await drawn(CONTENT_TYPES, check)


OURS = ("localhost", "127.0.0.1", "[::1]", "app.localhost")
HOSTS = st.one_of(
    BYTES,
    st.tuples(st.sampled_from(OURS), BYTES).map("".join),
    st.tuples(BYTES, st.sampled_from(OURS)).map("".join),
    st.tuples(st.sampled_from(OURS), st.integers(-9, 99_999)).map(lambda parts: f"{parts[0]}:{parts[1]}"),
)


async def test_any_host_is_ours_or_refused(client: httpx.AsyncClient) -> None:
    async def check(host: str) -> None:
        response = await client.get("/health", headers={"host": host.encode("latin-1")})
        assert response.status_code in (200, 403)
        if response.status_code == 200:
            parts = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d{1,5})?", host.strip().lower())
            assert parts, host
            name = parts[1]
            if not re.fullmatch(r"([^@/]+\.)?localhost\.?", name):
                ipaddress.ip_address(name.strip("[]"))  # raises where it is none

    await drawn(HOSTS, check)


async def test_any_origin_is_ours_or_refused(client: httpx.AsyncClient) -> None:
    friends = {"http://localhost:3000", "http://localhost", "https://localhost"}

    async def check(origin: str) -> None:
        response = await client.post(URL, headers={"origin": origin.encode("latin-1")})
        if origin.strip().lower() in friends:
            assert response.status_code == 400
        else:
            assert response.status_code == 403, origin
            assert "access-control-allow-origin" not in response.headers

    near = st.sampled_from(sorted(friends))
    origins = st.one_of(BYTES, near, st.tuples(near, BYTES).map("".join), st.tuples(BYTES, near).map("".join))
    await drawn(origins, check)


SPOILT = st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from("=\n\r\t -_+/A,;:é\0")), max_size=6)


@settings(max_examples=300, deadline=None)
@given(SPOILT, st.sampled_from(["", "data:audio/wav;base64,", "data:;base64,", "data:audio/wav,", "data:"]))
def test_spoilt_base64_is_bytes_or_a_400(spoilt: list[tuple[int, str]], prefix: str) -> None:
    """Padding in the middle, line breaks, both alphabets, wrong prefixes: never another error."""
    text = list(base64.b64encode(bytes(range(200))).decode())
    for at, character in spoilt:
        text.insert(at % (len(text) + 1), character)
    try:
        found = decode_base64(prefix + "".join(text), 1 << 20)
    except InvalidRequest:
        return
    assert len(found) <= len(text)
    if not any(character in "-_+/A" for _, character in spoilt):
        assert found == bytes(range(200))


@pytest.mark.long
async def test_silence_beside_speech_never_has_its_words(open_client: OpenClient, speech: Sample) -> None:
    """Two hundred requests, sixteen at a time: silence is silent, and speech is what it is alone."""
    quiet = [encode(np.zeros(16_000 * seconds, np.float32)) for seconds in (1, 3)]
    quiet.append(encode(tone(2.0, hz=50, amplitude=0.3)))
    async with open_client() as client:
        alone = (await client.post(URL, **form(speech.data))).json()
        assert HEARD.search(alone["text"])
        places = asyncio.Semaphore(16)

        async def one(number: int) -> None:
            is_speech = number % 2 == 0
            data = speech.data if is_speech else quiet[number % len(quiet)]
            async with places:
                request = form(data) if number % 3 else {"json": {"audio": b64(data)}}
                response = await client.post(URL, **request)
            assert response.status_code == 200, response.text
            assert response.json()["text"] == (alone["text"] if is_speech else "")

        await asyncio.gather(*(one(number) for number in range(200)))
