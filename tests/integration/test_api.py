"""The HTTP endpoints: OpenAI's contract and the desktop app's JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import tempfile
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import NANO, Sample, all_samples
from tests.support.audio_files import encode, samples_of, tone, wav_bytes
from tests.support.http_requests import HEARD, URL, b64, error_of, form
from tests.support.in_process import OpenClient
from whisper_server import __version__
from whisper_server.core.system.process import THREAD_PREFIX
from whisper_server.services.engines import fake

ROBUST = [sample for sample in all_samples() if sample.is_robust and sample.kind == "plain"]


# --- real words -------------------------------------------------------------------------------------


@pytest.mark.long
async def test_real_speech_as_form_and_as_json(nano_client: httpx.AsyncClient) -> None:
    for sample in ROBUST:
        as_form = await nano_client.post(URL, **form(sample.data, model="nano-whisper"))
        assert as_form.status_code == 200
        assert as_form.json()["text"] == sample.text, sample.name
        as_json = await nano_client.post(
            URL, json={"audio": b64(sample.data), "model": "nano-whisper", "language": "auto"}
        )
        body = as_json.json()
        assert set(body) == {"text", "processing_time", "model", "format"}
        assert body["text"] == sample.text, sample.name
        assert (body["model"], body["format"]) == ("nano-whisper", "flac")
        assert body["processing_time"] >= 0


async def test_real_speech_in_all_formats(nano_client: httpx.AsyncClient, speech: Sample) -> None:
    async def ask(response_format: str) -> httpx.Response:
        return await nano_client.post(URL, **form(speech.data, response_format=response_format))

    assert (await ask("json")).json() == {
        "text": "house left tree",
        "usage": {"type": "duration", "seconds": 3},
    }
    text = await ask("text")
    assert text.text == "house left tree\n"
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    verbose = (await ask("verbose_json")).json()
    assert verbose["language"] == "english"
    assert verbose["duration"] == pytest.approx(speech.duration_s, abs=0.01)
    assert (
        "".join(segment["text"] for segment in verbose["segments"]).strip() == verbose["text"] == speech.text
    )
    assert "words" not in verbose
    assert (await ask("srt")).text.startswith("1\n00:00:00,")
    assert (await ask("vtt")).text.startswith("WEBVTT\n\n00:00:00.")
    assert " ".join((await ask("srt")).text.split()).endswith(speech.text)


async def test_real_words_have_times(nano_client: httpx.AsyncClient, speech: Sample) -> None:
    response = await nano_client.post(
        URL,
        **form(
            speech.data, response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]}
        ),
    )
    words = response.json()["words"]
    assert [word["word"] for word in words] == speech.text.split()
    assert all(0 <= word["start"] <= word["end"] <= speech.duration_s for word in words)


async def test_real_prompt_and_language(nano_client: httpx.AsyncClient, samples: dict[str, Sample]) -> None:
    sample = samples["en-numerals-036.flac"]
    response = await nano_client.post(URL, **form(sample.data, prompt=sample.prompt, language="English"))
    assert response.json()["text"] == sample.text


@pytest.mark.parametrize(("container", "codec", "name"), [("mp3", "mp3", "mp3"), ("ipod", "aac", "m4a")])
async def test_json_names_the_format_of_the_bytes(
    client: httpx.AsyncClient, container: str, codec: str, name: str
) -> None:
    data = encode(tone(1.0), container=container, codec=codec)
    response = await client.post(URL, json={"audio": b64(data), "model": "whisper-1"})
    assert response.json()["format"] == name


# --- requests, on the fake engine -------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _device_runs() -> Any:
    yield
    fake.GATE.set()


@pytest.mark.parametrize(
    "body",
    [
        lambda data: {"audio": b64(data).rstrip("=")},
        lambda data: {"audio": "data:audio/flac;base64," + b64(data)},
        lambda data: {"audio": base64.encodebytes(data).decode()},
        lambda data: {"audio_options": {"data": b64(data)}},
        lambda data: {
            "messages": [{"content": [{"type": "input_audio", "inputAudio": {"data": b64(data)}}]}]
        },
    ],
)
async def test_json_of_older_clients(client: httpx.AsyncClient, speech: Sample, body: Any) -> None:
    response = await client.post(URL, json=body(speech.data))
    assert HEARD.fullmatch(response.json()["text"])
    assert response.json()["model"] == "whisper-1"


async def test_json_with_another_format_gets_that_format(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(URL, json={"audio": b64(speech.data), "response_format": "verbose_json"})
    assert response.json()["task"] == "transcribe"
    response = await client.post(URL, json={"audio": b64(speech.data), "response_format": "text"})
    assert HEARD.fullmatch(response.text.removesuffix("\n"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "whisper-1", "stream": "false", "prompt": "", "language": "", "temperature": "0"},
        {
            "user": "x",
            "chunking_strategy[type]": "server_vad",
            "include[]": "logprobs",
            "language": "auto",
        },
        {"temperature": "1", "language": "en-US", "timestamp_granularities[]": "segment"},
    ],
)
async def test_forms_that_clients_send(
    client: httpx.AsyncClient, speech: Sample, fields: dict[str, str]
) -> None:
    response = await client.post(URL, **form(speech.data, **fields))
    assert response.status_code == 200, response.text
    assert HEARD.fullmatch(response.json()["text"])


async def test_the_prompt_reaches_the_model(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(URL, **form(speech.data, prompt="Tea"))
    assert HEARD.fullmatch(response.json()["text"].removesuffix(" after Tea"))
    assert response.json()["text"].endswith(" after Tea")


@pytest.mark.parametrize("name", ["keywords[]", "keywords", "hotwords", "hotwords[]"])
async def test_keywords_reach_the_model_before_the_prompt(
    client: httpx.AsyncClient, speech: Sample, name: str
) -> None:
    response = await client.post(URL, **form(speech.data, prompt="Tea", **{name: ["Ada", "Bob", ""]}))
    assert response.json()["text"].endswith(" after Ada, Bob Tea")
    body = {"audio": b64(speech.data), "keywords": ["Ada"], "hotwords": "Bob"}
    assert (await client.post(URL, json=body)).json()["text"].endswith(" after Ada, Bob")


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"chunking_strategy": "auto"}, 3000),
        ({"chunking_strategy[type]": "server_vad"}, 3000),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[prefix_padding_ms]": "0"}, 260),
        ({"chunking_strategy": '{"type": "server_vad", "threshold": 1}'}, 0),
    ],
)
async def test_the_chunking_strategy_finds_the_speech(
    client: httpx.AsyncClient, speech: Sample, fields: dict[str, str], most: int
) -> None:
    quiet = np.zeros(32_000, np.float32)
    data = encode(np.concatenate([quiet, samples_of(speech.data), quiet]))
    text = (await client.post(URL, **form(data, **fields))).json()["text"]
    frames = int(text.split()[1]) if text else 0
    assert frames <= most
    assert frames > 300 or most < 3000


async def test_the_reply_names_the_language_that_was_chosen(
    client: httpx.AsyncClient, speech: Sample
) -> None:
    async def ask(**fields: Any) -> Any:
        return (await client.post(URL, **form(speech.data, **fields))).json().get("languages")

    assert await ask() is None
    assert await ask(**{"languages[]": ["German", "fr"]}) == [{"code": "de"}]
    assert await ask(languages="fr") == [{"code": "fr"}]
    assert await ask(languages=["fr", "en"], language="fr") == [{"code": "fr"}]


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
async def test_word_timestamps_in_a_form(client: httpx.AsyncClient, speech: Sample, name: str) -> None:
    response = await client.post(URL, **form(speech.data, response_format="verbose_json", **{name: "word"}))
    assert HEARD.fullmatch(" ".join(word["word"] for word in response.json()["words"]))


async def test_uploads_are_never_written_to_disk(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent/folder")
    response = await client.post(URL, **form(wav_bytes(bytes(3 << 20))))
    assert response.status_code == 200, response.text
    assert response.json()["text"] == ""


async def test_a_request_needs_no_thread_but_ours(client: httpx.AsyncClient, speech: Sample) -> None:
    """/health must answer also where the machine gives no more threads."""
    before = {thread.ident for thread in threading.enumerate()}
    for path in ("/", "/health", "/ready", "/v1/models", "/metrics", "/openapi.json", "/v1/nothing"):
        await client.get(path)
    assert {thread.ident for thread in threading.enumerate()} <= before
    assert (await client.post(URL, **form(speech.data))).status_code == 200
    new = [thread.name for thread in threading.enumerate() if thread.ident not in before]
    assert all(name.startswith(THREAD_PREFIX) for name in new), new


async def test_audio_info(client: httpx.AsyncClient, speech: Sample) -> None:
    stereo = encode(tone(2.0, 48_000), 48_000, "ogg", "libopus", 2)
    for request in (form(stereo), {"json": {"audio": b64(stereo)}}):
        info = (await client.post("/debug/audio-info", **request)).json()
        assert info["size_bytes"] == len(stereo)
        assert (info["format"], info["codec"], info["channels"]) == ("opus", "opus", 2) or info[
            "format"
        ] == "ogg"
        assert info["sample_rate_hz"] == 48_000
        assert info["duration_s"] == pytest.approx(2.0, abs=0.05)
        assert info["peak_dbfs"] == pytest.approx(-6.0, abs=0.5)
        assert info["rms_dbfs"] == pytest.approx(-9.0, abs=0.5)
        assert info["speech_s"] == 0
    info = (await client.post("/debug/audio-info", **form(speech.data))).json()
    assert 1.4 < info["speech_s"] <= info["duration_s"]  # its three words take 1.43 s


async def test_audio_info_of_silence_is_valid_json(client: httpx.AsyncClient) -> None:
    info = (await client.post("/debug/audio-info", **form(wav_bytes(bytes(32_000))))).json()
    assert (info["peak_dbfs"], info["rms_dbfs"], info["speech_s"]) == (None, None, 0)


# --- what is around -------------------------------------------------------------------------------


async def test_health_ready_and_root(client: httpx.AsyncClient, speech: Sample) -> None:
    body = (await client.get("/health")).json()
    assert body["status"] == "ok"
    assert body["version"] == __version__
    assert body["uptime_s"] >= 0
    assert body["models"] == []
    assert (await client.get("/ready")).json()["status"] == "ready"
    assert (await client.get("/")).json()["name"] == "whisper-server"
    await client.post(URL, **form(speech.data))
    models = (await client.get("/health")).json()["models"]
    assert [(model["name"], model["state"]) for model in models] == [("whisper-tiny", "ready")]


async def test_preloaded_models(open_client: OpenClient) -> None:
    async with open_client(preload=("whisper-base",)) as client:
        assert (await client.get("/health")).status_code == 200
        early = await client.get("/ready")
        assert early.status_code in {200, 503}
        await client.app.state.preloading
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/health")).json()["models"][0]["name"] == "whisper-base"


async def test_not_ready_while_models_load(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client() as client:
        assert (await client.get("/ready")).status_code == 200  # at once, where nothing is to be loaded
    async with open_client(preload=("whisper-1",)) as client:
        await client.app.state.preloading
        client.app.state.preloading = asyncio.get_running_loop().create_future()
        response = await client.get("/ready")
        error_of(response, 503)
        assert response.headers["retry-after"].isdecimal()
        assert (await client.get("/health")).status_code == 200
        client.app.state.preloading.set_result(None)


async def test_a_preload_that_fails_does_not_end_the_server(open_client: OpenClient) -> None:
    async with open_client(preload=("nobody", "whisper-1")) as client:
        await client.app.state.preloading
        assert (await client.get("/ready")).status_code == 200


async def test_models(open_client: OpenClient) -> None:
    async with open_client(model=str(NANO), models=("mine=owner/name",)) as client:
        body = (await client.get("/v1/models")).json()
        assert body["object"] == "list"
        owners = {model["id"]: model["owned_by"] for model in body["data"]}
        assert owners["whisper-1"] == "local"  # a hosted name means the default model
        assert owners["whisper-tiny"] == "openai"
        assert owners["mine"] == "owner"
        assert owners["nano-whisper"] == "local"
        assert all({"id", "object", "created", "owned_by"} <= set(model) for model in body["data"])
        assert (await client.get("/v1/models/mine")).json()["id"] == "mine"
        error_of(await client.get("/v1/models/a%2Fb"), 404, param="model", code="model_not_found")


async def test_openapi_describes_both_bodies(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"][URL]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert "422" not in json.dumps(document)
    assert "HTTPValidationError" not in json.dumps(document)
    assert (await client.get("/docs")).status_code == 200


async def test_a_client_that_leaves_frees_its_place(
    client: httpx.AsyncClient, speech: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    request = client.build_request("POST", URL, **form(speech.data))
    received = [
        {"type": "http.request", "body": request.read(), "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive() -> dict[str, Any]:
        return received.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": URL,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }
    fake.GATE.clear()  # the device never answers, so only the leaving can end the request
    with caplog.at_level(logging.INFO, "whisper_server.requests"):
        await client.app(scope, receive, send)
    assert sent == []
    assert "outcome=client_disconnected" in caplog.text
    services = client.app.state.services
    assert [model.leases for model in services.models.loaded()] in ([], [0])
    fake.GATE.set()
    assert (await client.post(URL, **form(speech.data))).status_code == 200


async def test_leaving_during_the_upload(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    for content_type in (b"application/json", b"multipart/form-data; boundary=x"):
        begun = {"type": "http.request", "body": b"--x\r\n", "more_body": True}
        received = [begun, {"type": "http.disconnect"}]

        async def receive(messages: list[dict[str, Any]] = received) -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": URL, "query_string": b""}
        await client.app({**scope, "headers": [(b"content-type", content_type)]}, receive, send)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_requests_are_logged_without_their_content(
    client: httpx.AsyncClient, speech: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "whisper_server"):
        files = {"file": ("private\r\nname.wav", speech.data)}
        await client.post(URL, files=files, data={"prompt": "Secret"}, headers={"x-request-id": "mine-1"})
        await client.get("/private/path")
    lines = [record.getMessage() for record in caplog.records if record.name == "whisper_server.requests"]
    assert len(lines) == 2
    assert "id=mine-1 method=POST path=/v1/audio/transcriptions status=200" in lines[0]
    assert "model=whisper-1 audio_s=2.54" in lines[0]
    assert "windows=1" in lines[0]
    for word in ("private", "Secret", "heard"):
        assert word not in caplog.text


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_probes_may_ask_for_the_head_only(client: httpx.AsyncClient, path: str) -> None:
    await client.get("/ready")  # nothing is preloaded: a turn of the loop and it is ready
    response = await client.head(path)
    assert (response.status_code, response.content) == (200, b"")
