"""The app's own OpenAPI document: it is whole, it names the contract, and what it says is what happens."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis.errors import Unsatisfiable

from tests.conftest import ROOT, SAMPLES, Server, StartServer
from tests.contract.clients import client_package
from tests.contract.document import (
    CHAT,
    FORM,
    JSON,
    MODEL,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    document,
    has_route,
    needs_stream,
    request_fields,
    resolve,
)
from tests.support.speaker_networks import ENCODER

SPEECH = (SAMPLES / "en-plain-001.flac").read_bytes()
COMPAT = ROOT / "docs" / "compat.md"


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def test_every_reference_leads_somewhere() -> None:
    references = [node for node in nodes(document()) if isinstance(node.get("$ref"), str)]
    assert references
    for reference in references:
        assert resolve(reference)


def test_every_operation_describes_its_errors() -> None:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            for status in ("4XX", "5XX"):
                response = operation["responses"][status]
                if path == "/asr":  # its clients store bodies as subtitles
                    assert "content" not in response
                    assert "x-error" in response["headers"]
                else:
                    schema = response["content"][JSON]["schema"]
                    assert schema["$ref"].endswith("/ErrorBody"), f"{method} {path} {status}"
                assert {"x-request-id", "retry-after", "x-should-retry"} <= set(response["headers"])


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS, CHAT, "/debug/audio-info"])
def test_a_busy_server_is_described(path: str) -> None:
    response = document()["paths"][path]["post"]["responses"]["429"]
    assert response["content"][JSON]["schema"]["$ref"].endswith("/ErrorBody")
    assert response["headers"]["retry-after"]["schema"]["type"] == "integer"


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/debug/audio-info"])
def test_both_encodings_are_described_with_examples(path: str) -> None:
    content = document()["paths"][path]["post"]["requestBody"]["content"]
    assert set(content) == {FORM, JSON}
    for media in content.values():
        schema = resolve(media["schema"])
        assert schema["examples"]
        for example in schema["examples"]:
            assert set(example) <= set(schema["properties"])


@needs_stream
def test_streams_are_described() -> None:
    for path in (TRANSCRIPTIONS, CHAT):
        content = document()["paths"][path]["post"]["responses"]["200"]["content"]
        assert content["text/event-stream"]["schema"]["type"] == "string"
        assert next(iter(content)) == JSON  # which generators of clients take


def test_a_key_is_described_where_one_is_set(start_server: StartServer) -> None:
    from whisper_server.api.app import create_app
    from whisper_server.core.config import Settings

    locked = create_app(Settings(_env_file=None, api_key="secret")).openapi()
    assert locked["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert locked["paths"][TRANSCRIPTIONS]["post"]["security"] == [{"key": []}]
    assert "security" not in locked["paths"]["/health"]["get"]
    assert "security" not in json.dumps(document())


def test_the_document_names_the_whole_contract() -> None:
    assert {
        *("file", "model", "language", "languages", "keywords", "prompt", "response_format", "temperature"),
        *("include", "timestamp_granularities", "stream", "chunking_strategy"),
        *("known_speaker_names", "known_speaker_references"),
    } <= request_fields(TRANSCRIPTIONS, FORM)
    assert {"file", "model", "prompt", "response_format", "temperature"} <= request_fields(TRANSLATIONS, FORM)
    assert {"model", "messages", "stream", "stream_options"} <= request_fields(CHAT, JSON)
    assert has_route("delete", MODEL)


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, methods in document()["paths"].items() for method in methods],
)
def test_compat_names_every_field(path: str, method: str) -> None:
    fields = request_fields(path, FORM, method=method) | request_fields(path, JSON, method=method)
    text = COMPAT.read_text(encoding="utf-8")
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []


# --- what the document says is what happens ---------------------------------------------------------


@pytest.fixture(scope="session")
def fake(start_contract_server: StartServer) -> Server:
    return start_contract_server(
        MAX_AUDIO_FILE_SIZE_MB="1",
        WHISPER_SPEAKER_ENCODER=str(ENCODER),
        WHISPER_SPEAKER_SEGMENTATION="none",
    )


def with_speech(body: Any, response_format: str) -> Any:
    """Put real values where a generated body has nonsense that the document cannot forbid."""
    if not isinstance(body, dict):
        return body
    real = {"model": "whisper-1", "language": "en", "response_format": response_format}
    # A reply of 202 is in no list: made clients would give every caller of a transcription a text or a job.
    real |= {"timestamp_granularities": ["segment"], "background": False}
    body = {
        **body,
        **{name: value for name, value in real.items() if isinstance(body.get(name), type(value))},
    }
    for name in ("file", "audio_file"):
        if name in body:
            heard = {"text": "heard frames of sound"} if "text" in body else {}  # what the fake engine says
            return {**body, **heard, name: SPEECH}
    encoded = base64.b64encode(SPEECH).decode()
    if "messages" in body:
        part = {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}
        return {**body, "messages": [{"role": "user", "content": [part]}]}
    return {**body, "audio": encoded}


def ended_job(server: Server) -> str:
    """Return the id of a new job, when it has its result."""
    form = {"files": {"file": SPEECH}, "data": {"background": "true"}}
    job: str = httpx.post(f"{server.url}{TRANSCRIPTIONS}", **form).json()["id"]
    assert httpx.get(f"{server.url}/v1/jobs/{job}/events").status_code == 200
    return job


FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, methods in document()["paths"].items() for method in methods],
)
def test_replies_are_as_described(fake: Server, path: str, method: str, mode: str) -> None:
    """Send what the document allows, or what it forbids: the reply is of a kind that the document names."""
    schemathesis = client_package("schemathesis")
    schemathesis.checks.load_all_checks()
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    operation = schemathesis.openapi.from_dict(document())[path][method]
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, is_real=strategies.booleans(), response_format=strategies.sampled_from(FORMATS))
    def check(case: Any, is_real: bool, response_format: str) -> None:
        if is_real:
            case.body = with_speech(case.body, response_format)
            known = ended_job(fake) if "{job_id}" in path else "whisper-1"
            case.path_parameters = dict.fromkeys(case.path_parameters, known)
        reply = case.call(base_url=fake.url)
        # A stream is one string to OpenAPI 3.1; schemathesis would hold each event to that.
        is_stream = reply.headers.get("content-type", [""])[0].startswith("text/event-stream")
        case.validate_response(reply, checks=checks[:-1] if is_stream else checks)
        statuses.append(reply.status_code)

    statuses: list[int] = []
    with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request without parameters
        check()
    if mode == "positive":
        assert 200 in statuses
