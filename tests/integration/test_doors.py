"""Requests as the clients of other servers make them: every row is somebody's first contact."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest

from tests.conftest import Sample
from tests.support.asgi_client import events_of
from tests.support.http_requests import form
from tests.support.in_process import MakeSettings, OpenClient, client_of
from whisper_server.core.settings.origins import DEFAULT_ORIGINS

URL = "/v1/audio/transcriptions"


async def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["text"]
    return text


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["gpt-4o-transcribe", "whisper-1", "openai/whisper-tiny", "Tiny", "gpt-transcribe"]
)
async def test_names_of_other_servers(client: httpx.AsyncClient, speech: Sample, model: str) -> None:
    response = await client.post(URL, **form(speech.data, model=model))
    assert await text_of(response)
    assert response.headers["x-whisper-model"] == "whisper-tiny"


async def test_the_reply_names_the_model_in_every_format(client: httpx.AsyncClient, speech: Sample) -> None:
    for fields in (
        {"response_format": "srt"},
        {"stream": "true"},
        {"model": "base", "response_format": "text"},
    ):
        response = await client.post(URL, **form(speech.data, **fields))
        assert response.headers["x-whisper-model"] == f"whisper-{fields.get('model', 'tiny')}"


async def test_a_name_that_no_header_can_hold(
    open_client: OpenClient, speech: Sample, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    async with open_client(models=f"größe\u2028x={tmp_path / 'm'}") as client:
        response = await client.post(URL, **form(speech.data, model="größe\u2028x"))
    assert response.headers["x-whisper-model"] == "gr%C3%B6%C3%9Fe%E2%80%A8x"


async def test_models_list_the_hosted_names(open_client: OpenClient) -> None:
    async with open_client(aliases="speech=whisper-small") as client:
        listed = {
            each["id"]: each.get("alias_of") for each in (await client.get("/v1/models")).json()["data"]
        }
        one = (await client.get("/v1/models/gpt-4o-transcribe")).json()
    assert listed["gpt-4o-transcribe"] == listed["whisper-1"] == "whisper-tiny"
    assert listed["speech"] == "whisper-small"
    assert listed["whisper-tiny"] is None
    assert (one["id"], one["alias_of"]) == ("gpt-4o-transcribe", "whisper-tiny")


async def test_without_aliases_hosted_names_are_a_404(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(aliases="none") as client:
        response = await client.post(URL, **form(speech.data, model="gpt-4o-transcribe"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_gpt_transcribe_always_says_the_language(client: httpx.AsyncClient, speech: Sample) -> None:
    reply = (await client.post(URL, **form(speech.data, model="gpt-transcribe"))).json()
    assert [each["code"] for each in reply["languages"]] == ["en"]
    assert "languages" not in (await client.post(URL, **form(speech.data, model="whisper-1"))).json()
    stream = (await client.post(URL, **form(speech.data, model="gpt-transcribe", stream="true"))).text
    assert '"languages":[{"code":"en"}]' in stream


# --- addresses, methods and headers -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/audio/transcriptions",
        "//v1/audio/transcriptions",
        "/api/v1/audio/transcriptions/",
        "/v1/v1/audio/transcriptions",
    ],
)
async def test_other_addresses_are_served_without_a_redirect(
    client: httpx.AsyncClient, speech: Sample, path: str
) -> None:
    assert await text_of(await client.post(f"http://localhost{path}", **form(speech.data)))


async def test_groq_finds_its_field_at_its_address(client: httpx.AsyncClient, speech: Sample) -> None:
    for response_format in ("json", "verbose_json"):
        fields = form(speech.data, model="whisper-large-v3", response_format=response_format)
        response = await client.post("/openai/v1/audio/transcriptions", **fields)
        assert response.json()["x_groq"] == {"id": response.headers["x-request-id"]}
        assert "x_groq" not in (await client.post(URL, **fields)).json()
    plain = await client.post("/openai/v1/audio/transcriptions", **form(speech.data, response_format="text"))
    assert "x_groq" not in plain.text


async def test_azure(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(api_key="secret", aliases="my-whisper=whisper-base") as client:
        url = "/openai/deployments/my-whisper/audio/transcriptions?api-version=2025-03-01-preview"
        response = await client.post(
            url, headers={"api-key": "secret"}, **form(speech.data, model="whatever")
        )
        assert await text_of(response)
        assert response.headers["x-whisper-model"] == "whisper-base"
        assert (await client.post(url, headers={"api-key": "wrong"}, **form(speech.data))).status_code == 401
        assert (await client.post(url, **form(speech.data))).status_code == 401
        both = {"api-key": "secret", "authorization": "Bearer wrong"}
        assert (await client.post(url, headers=both, **form(speech.data))).status_code == 401
        missing = await client.post(
            url.replace("my-", "your-"), headers={"api-key": "secret"}, **form(speech.data)
        )
        assert missing.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/", "/v1/models", "/health", "/ready", "/metrics", "/docs"])
async def test_head_is_get_without_a_body(client: httpx.AsyncClient, path: str) -> None:
    response = await client.head(path)
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers.get("content-length", 1)) > 0
    assert (await client.head("/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/whisper-1", "GET, POST, DELETE, HEAD, OPTIONS"),
        (URL, "POST, OPTIONS"),
    ],
)
async def test_options_name_the_methods(client: httpx.AsyncClient, path: str, allowed: str) -> None:
    response = await client.options(path)
    assert (response.status_code, response.headers["allow"], response.content) == (204, allowed, b"")
    wrong = await client.request("PATCH", path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, allowed)
    assert (await client.options("/nothing")).status_code == 404


# --- bodies -----------------------------------------------------------------------------------------


async def test_openrouters_body(client: httpx.AsyncClient, speech: Sample) -> None:
    audio = {"data": base64.b64encode(speech.data).decode(), "format": "flac"}
    body = {"model": "openai/whisper-large-v3", "input_audio": audio, "language": "en"}
    reply = (await client.post("/api/v1/audio/transcriptions", json=body)).json()
    assert set(reply) == {"text", "usage"}
    timed = {**body, "response_format": "verbose_json", "timestamp_granularities": ["segment"]}
    assert (await client.post(URL, json=timed)).json()["segments"]
    wrong = await client.post(URL, json={**body, "input_audio": {"data": "?"}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "input_audio")
    noise = {**body, "input_audio": base64.b64encode(b"no audio").decode()}
    assert (await client.post(URL, json=noise)).json()["error"]["param"] == "input_audio"


async def test_whisper_cpps_route(client: httpx.AsyncClient, speech: Sample) -> None:
    fields = {"temperature": "0.0", "temperature_inc": "0.2", "no_speech_thold": "0.6"}
    plain = (await client.post("/inference", **form(speech.data, **fields))).json()
    assert set(plain) == {"text"}
    text = await client.post("/inference", **form(speech.data, response_format="text"))
    assert text.text == plain["text"] + "\n"
    srt = await client.post("/inference", **form(speech.data, response_format="srt"))
    assert srt.text.startswith("1\n00:00:0")
    verbose = (await client.post("/inference", **form(speech.data, response_format="verbose_json"))).json()
    assert (verbose["task"], verbose["text"]) == ("transcribe", plain["text"])
    english = await client.post(
        "/inference",
        **form(
            speech.data,
            response_format="verbose_json",
            translate="true",
            language="xx",
            detect_language="true",
        ),
    )
    assert (english.json()["task"], english.json()["language"]) == ("translate", "english")
    assert (await client.post("/inference", **form(speech.data, response_format="lrc"))).status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {
            "language": "",
            "prompt": "",
            "temperature": "",
            "response_format": "",
            "timestamp_granularities[]": "",
        },
        {"stream": "false", "model": "", "include[]": "", "chunking_strategy": ""},
        {"language": "und"},
        {"language": "eng"},
    ],
)
async def test_empty_fields_are_absent(
    client: httpx.AsyncClient, speech: Sample, fields: dict[str, str]
) -> None:
    given = await client.post(URL, **form(speech.data, **fields))
    assert await text_of(given) == await text_of(await client.post(URL, **form(speech.data)))


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_a_compressed_body_is_refused_by_name(client: httpx.AsyncClient, encoding: str) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    for path in (URL, "/v1/chat/completions"):
        response = await client.post(path, headers=headers, content=b"\x1f\x8b")
        assert response.status_code == 415
        assert f"Content-Encoding is '{encoding}'" in response.json()["error"]["message"]
    plain = {"content-encoding": "identity", "content-type": "application/json"}
    assert (await client.post(URL, headers=plain, content=b"{}")).status_code == 400


async def test_no_retry_for_a_model_that_cannot_come(settings: MakeSettings, speech: Sample) -> None:
    async with client_of(settings(engine="ctranslate2", offline=True)) as client:
        response = await client.post(URL, headers={"origin": "http://localhost:1"}, **form(speech.data))
    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    readable = response.headers["access-control-expose-headers"]
    assert {"x-should-retry", "retry-after", "x-request-id", "x-whisper-model"} <= set(readable.split(", "))


# --- web views --------------------------------------------------------------------------------------

ASKED = {"access-control-request-method": "POST"}


@pytest.mark.parametrize("origin", ["http://localhost:5173", "app://obsidian.md", "vscode-webview://0f2b"])
async def test_pages_of_this_machine_may_ask(client: httpx.AsyncClient, speech: Sample, origin: str) -> None:
    preflight = await client.options(URL, headers={"origin": origin, **ASKED})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, origin)
    response = await client.post(URL, headers={"origin": origin}, **form(speech.data))
    assert await text_of(response)
    assert response.headers["access-control-allow-origin"] == origin


async def test_a_refused_page_is_told_and_logged_once(
    client: httpx.AsyncClient, speech: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    for origin in ("chrome-extension://abc", "null", "chrome-extension://abc"):
        for response in (
            await client.options(URL, headers={"origin": origin, **ASKED}),
            await client.post(URL, headers={"origin": origin}, **form(speech.data)),
        ):
            assert response.status_code == 403
            assert "ALLOWED_ORIGINS" in response.json()["error"]["message"]
            assert "access-control-allow-origin" not in response.headers
        assert (await client.get("/v1/models", headers={"origin": origin})).status_code == 200
    lines = [each.getMessage() for each in caplog.records if "ALLOWED_ORIGINS" in each.getMessage()]
    assert [line.split("'")[1] for line in lines] == ["chrome-extension://abc", "null"]


async def test_a_flood_of_origins_fills_no_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(150):
        await client.post("/", headers={"origin": f"https://{number}.example"})
    assert sum("ALLOWED_ORIGINS" in each.getMessage() for each in caplog.records) == 100


async def test_extensions_by_pattern(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(allowed_origins="default,chrome-extension://*,null") as client:
        for origin in ("chrome-extension://abc", "null", "tauri://localhost"):
            response = await client.post(URL, headers={"origin": origin}, **form(speech.data))
            assert response.headers["access-control-allow-origin"] == origin
    assert "null" not in DEFAULT_ORIGINS


# --- streams with times -----------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["segment", "word"])
async def test_verbose_json_streams_segments(
    nano_client: httpx.AsyncClient, speech: Sample, granularity: str
) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": granularity}
    streamed = await nano_client.post(URL, **form(speech.data, **fields, stream="true"))
    events = events_of(streamed.text)
    whole = (
        await nano_client.post(
            URL, **form(speech.data, **{**fields, "timestamp_granularities[]": ["word", "segment"]})
        )
    ).json()
    timed = [event for event in events if event["type"] == "transcript.text.segment"]
    deltas = [event for event in events if event["type"] == "transcript.text.delta"]
    assert [(each["start"], each["end"], each["text"]) for each in timed] == [
        (each["start"], each["end"], each["text"].strip()) for each in whole["segments"]
    ]
    assert [each["id"] for each in timed] == [each["segment_id"] for each in deltas]
    assert "".join(each["delta"] for each in deltas) == events[-1]["text"] == whole["text"]
    words = [word for each in timed for word in each.get("words", [])]
    assert words == (whole["words"] if granularity == "word" else [])


async def test_cues_are_not_streamed(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(URL, **form(speech.data, response_format="srt", stream="true"))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
