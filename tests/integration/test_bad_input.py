"""Every kind of bad input: the right status and OpenAI's error object, whatever is sent."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import Sample
from tests.support.audio_files import NOT_MEDIA, encode, tone, wav_bytes
from tests.support.http_requests import URL, b64, error_of, form
from tests.support.in_process import OpenClient


async def test_empty_bodies(client: httpx.AsyncClient) -> None:
    for path in (URL, "/debug/audio-info"):
        assert "multipart/form-data" in error_of(await client.post(path), 400, param="file")
        response = await client.post(path, content=b"", headers={"content-type": "application/json"})
        assert '"audio"' in error_of(response, 400, param="audio")
        response = await client.post(
            path, content=b"", headers={"content-type": "multipart/form-data; boundary=x"}
        )
        error_of(response, 400, param="file")


async def test_missing_audio(client: httpx.AsyncClient) -> None:
    assert "base64" in error_of(await client.post(URL, json={"model": "whisper-1"}), 400, param="audio")
    response = await client.post(URL, files={"other": ("a", b"x")}, data={"model": "whisper-1"})
    assert "'file'" in error_of(response, 400, param="file")
    error_of(await client.post(URL, **form(b"")), 400, param="file")
    response = await client.post(URL, files={"file": (None, b"not a file part")})
    error_of(response, 400, param="file")


@pytest.mark.parametrize(
    "content", [b"{", b"[1, 2", b"\xff\xfe\xfa", b"[" * 100_000, b'{"audio": 1e999}', b"null"]
)
async def test_wrong_json(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.json()["error"]["param"] in {None, "audio"}
    error_of(response, 400, param=response.json()["error"]["param"])


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "b" * 300]
)
async def test_wrong_forms(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post(URL, content=b"--x\r\nnonsense", headers={"content-type": content_type})
    error_of(response, 400)


async def test_forms_have_bounds(client: httpx.AsyncClient, speech: Sample) -> None:
    many = {f"field{i}": "x" for i in range(300)}
    error_of(await client.post(URL, **form(speech.data, **many)), 400)
    error_of(await client.post(URL, **form(speech.data, prompt="x" * (1 << 17))), 400, param="prompt")
    files = [("file", (f"{i}", b"x")) for i in range(2)]
    assert "one per request" in error_of(await client.post(URL, files=files), 400, param="file")


@pytest.mark.parametrize("content_type", ["audio/wav", "text/plain", "application/x-www-form-urlencoded"])
async def test_other_content_types(client: httpx.AsyncClient, speech: Sample, content_type: str) -> None:
    response = await client.post(URL, content=speech.data, headers={"content-type": content_type})
    assert content_type in error_of(response, 400, param="file")


async def test_wrong_base64(client: httpx.AsyncClient) -> None:
    assert "base64" in error_of(await client.post(URL, json={"audio": "%%%"}), 400, param="audio")


@pytest.mark.parametrize(
    ("field", "value", "status", "param", "code"),
    [
        ("model", "whisper-9", 404, "model", "model_not_found"),
        ("model", "../../etc/passwd", 404, "model", "model_not_found"),
        ("model", "x" * 10_000, 404, "model", "model_not_found"),
        ("language", "klingon", 400, "language", None),
        ("response_format", "yaml", 400, "response_format", None),
        ("temperature", "2", 400, "temperature", None),
        ("temperature", "nan", 400, "temperature", None),
        ("temperature", "warm", 400, "temperature", None),
        ("seed", "lucky", 400, "seed", None),
        ("seed", "1.5", 400, "seed", None),
        ("seed", "9223372036854775808", 400, "seed", None),
        ("stream", "maybe", 400, "stream", None),
        ("stream", "perhaps", 400, "stream", None),
        ("timestamp_granularities[]", "word", 400, "timestamp_granularities", None),
        ("timestamp_granularities", "letter", 400, "timestamp_granularities", None),
        ("languages[]", "klingon", 400, "languages", None),
        ("languages", "auto-magic", 400, "languages", None),
        ("keywords[]", "x" * 1001, 400, "keywords", None),
        ("hotwords", "x" * 1001, 400, "keywords", None),
        ("chunking_strategy", "vad", 400, "chunking_strategy", None),
        ("chunking_strategy", '{"type": "semantic_vad"}', 400, "chunking_strategy", None),
        ("chunking_strategy", '{"type": "server_vad", "threshold": 2}', 400, "chunking_strategy", None),
    ],
)
async def test_wrong_parameters(
    client: httpx.AsyncClient,
    speech: Sample,
    field: str,
    value: str,
    status: int,
    param: str,
    code: str | None,
) -> None:
    message = error_of(
        await client.post(URL, **form(speech.data, **{field: value})), status, param=param, code=code
    )
    assert len(message) < 1000
    body = {"audio": b64(speech.data), field.removesuffix("[]"): value}
    error_of(await client.post(URL, json=body), status, param=param, code=code)


@pytest.mark.parametrize("value", [5, [1], {"a": 1}])
async def test_json_of_wrong_types(client: httpx.AsyncClient, speech: Sample, value: Any) -> None:
    response = await client.post(URL, json={"audio": b64(speech.data), "model": value})
    error_of(response, 400, param="model")


async def test_a_surrogate_in_a_prompt_is_replaced(client: httpx.AsyncClient, speech: Sample) -> None:
    content = json.dumps({"audio": b64(speech.data), "prompt": "a\ud800b"})
    response = await client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert response.json()["text"].endswith("after a?b")


@pytest.mark.parametrize("item", ["[]", "{}", "1", '"word"'])
async def test_json_of_very_many_values_is_refused_unparsed(client: httpx.AsyncClient, item: str) -> None:
    content = '{"audio": "", "timestamp_granularities": [' + ",".join([item] * 20_000) + "]}"
    response = await client.post(URL, content=content, headers={"content-type": "application/json"})
    assert "more than 10000 values" in error_of(response, 400)


async def test_commas_in_a_text_are_no_values(client: httpx.AsyncClient, speech: Sample) -> None:
    prompt = "a, \\" + '"' + ", " * 20_000
    response = await client.post(URL, json={"audio": b64(speech.data), "prompt": prompt})
    assert response.status_code == 200, response.text


async def test_a_language_is_refused_whether_somebody_speaks_or_not(
    nano_client: httpx.AsyncClient, speech: Sample
) -> None:
    silence = encode(np.zeros(16_000, np.float32))
    for data in (speech.data, silence):
        error_of(await nano_client.post(URL, **form(data, language="yue")), 400, param="language")


async def test_lone_surrogates_are_no_failure_of_ours(client: httpx.AsyncClient, speech: Sample) -> None:
    content = json.dumps({"audio": b64(speech.data), "model": "\ud800"})
    response = await client.post(URL, content=content, headers={"content-type": "application/json"})
    error_of(response, 404, param="model", code="model_not_found")


@pytest.mark.parametrize("name", sorted(NOT_MEDIA))
async def test_files_that_are_no_audio(client: httpx.AsyncClient, name: str) -> None:
    data = NOT_MEDIA[name]
    assert "Supported formats" in error_of(await client.post(URL, **form(data)), 400, param="file")
    error_of(await client.post(URL, json={"audio": b64(data)}), 400, param="audio")
    error_of(await client.post("/debug/audio-info", **form(data)), 400, param="file")


async def test_truncated_files(client: httpx.AsyncClient, speech: Sample) -> None:
    m4a = encode(tone(2.0), container="ipod", codec="aac")  # its table of contents is at its end
    for data in (m4a[: len(m4a) // 2], speech.data[:60]):
        error_of(await client.post(URL, **form(data)), 400, param="file")
        error_of(await client.post(URL, json={"audio": b64(data)}), 400, param="audio")


@pytest.mark.parametrize("size", [(1 << 20) + 1, 4 << 20])  # refused as a file, and as a body
async def test_files_over_the_size_limit(open_client: OpenClient, size: int) -> None:
    async with open_client(max_audio_file_size_mb=1) as client:
        for request in (form(bytes(size)), {"json": {"audio": b64(bytes(size))}}):
            response = await client.post(URL, **request)
            message = error_of(response, 413)
            assert message.startswith("Maximum content size limit (1048576) exceeded (")
            assert response.headers["connection"] == "close"
        assert (await client.post(URL, **form(wav_bytes(bytes((1 << 20) - 100))))).status_code == 200


async def test_audio_over_the_length_limit(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(max_audio_seconds=2) as client:
        assert "MAX_AUDIO_SECONDS" in error_of(await client.post(URL, **form(speech.data)), 400, param="file")
        error_of(await client.post(URL, json={"audio": b64(speech.data)}), 400, param="audio")
        error_of(await client.post("/debug/audio-info", **form(speech.data)), 400, param="file")


async def test_paths_and_methods(client: httpx.AsyncClient) -> None:
    assert "/v1/nothing" in error_of(await client.get("/v1/nothing"), 404)
    response = await client.get(URL)
    error_of(response, 405)
    assert response.headers["allow"] == "POST, OPTIONS"
    assert (await client.get("/v1/models/")).json()["object"] == "list"  # without a redirect


async def test_a_bug_is_a_500_without_a_traceback(
    client: httpx.AsyncClient, speech: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    client.app.state.services = None
    response = await client.get("/v1/models")
    message = error_of(response, 500)
    assert "NoneType" not in message
    assert response.headers["x-should-retry"] == "false"
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1


async def test_damaged_forms_are_answered(client: httpx.AsyncClient, speech: Sample) -> None:
    request = client.build_request("POST", URL, **form(speech.data[:300], language="en"))
    body, headers = request.read(), {"content-type": request.headers["content-type"]}
    damage = random.Random(4)
    for _ in range(150):
        damaged = bytearray(body)
        for _ in range(damage.randrange(1, 8)):
            damaged[damage.randrange(min(len(damaged), 400))] = damage.choice(b'\r\n-:;="\0\xffa')
        cut = damage.randrange(1, len(damaged) + 1)
        response = await client.post(URL, content=bytes(damaged[:cut]), headers=headers)
        error_of(response, 400, param=response.json()["error"]["param"])
