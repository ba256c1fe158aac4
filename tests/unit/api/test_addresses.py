"""Addresses of other servers lead to our own, and ours to themselves."""

from __future__ import annotations

import json

import pytest

from whisper_server.api.asgi import Message, Receive, Scope, Send, is_lingering, mark_lingering
from whisper_server.api.compat.addresses import own_address
from whisper_server.api.compat.groq import with_groq_id
from whisper_server.api.middleware.addresses import AddressMiddleware

TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.mark.parametrize(
    "path",
    [
        TRANSCRIPTIONS,
        "//v1/audio/transcriptions",
        "/v1//audio///transcriptions/",
        "/v1/audio/transcriptions/",
        "/audio/transcriptions",
        "/v1/v1/audio/transcriptions",
        "/api/v1/audio/transcriptions",
        "/openai/v1/audio/transcriptions",
        "/openai/audio/transcriptions",
        "/api/openai/v1/audio/transcriptions",
        "/openai/deployments/mine/audio/transcriptions",
    ],
)
def test_every_address_of_transcriptions(path: str) -> None:
    assert own_address(path).path == TRANSCRIPTIONS


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/models", "/v1/models"),
        ("/models/", "/v1/models"),
        ("/models/Systran/faster-whisper-tiny", "/v1/models/Systran/faster-whisper-tiny"),
        ("/openai/models", "/v1/models"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/health/", "/health"),
        ("/openai/deployments/mine", "/v1/deployments/mine"),
    ],
)
def test_other_addresses(path: str, own: str) -> None:
    assert own_address(path).path == own


@pytest.mark.parametrize(
    "path",
    ["/health", "/docs/start.js", "/v1/models/openai/v1/x", "/v1/models/models/x", "/inference", "/x/v1/y"],
)
def test_our_own_stay_as_they_are(path: str) -> None:
    assert own_address(path).path == path


def test_what_an_address_says_beyond_the_path() -> None:
    azure = own_address("/openai/deployments/my-whisper/audio/translations")
    assert (azure.deployment, azure.is_groq) == ("my-whisper", False)
    assert own_address("/openai/v1/models").is_groq
    assert not own_address("/v1/models").is_groq
    assert own_address("/v1/audio/transcriptions").deployment == ""


@pytest.mark.parametrize("body", ['{"text":"a}"}', '{"text": "a", "n": {}}\n', "{}", "{ }"])
def test_groq_finds_its_field(body: str) -> None:
    assert json.loads(with_groq_id(body, "req_1")) == {**json.loads(body), "x_groq": {"id": "req_1"}}


async def test_the_server_sees_what_layers_below_say_of_a_connection() -> None:
    """Whether it only lingers, say, which is read from the scope that the server itself made."""

    async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
        assert scope["path"] == TRANSCRIPTIONS
        mark_lingering(scope)

    async def unused(*_: object) -> Message:
        raise AssertionError

    scope: Scope = {"type": "http", "path": "/audio/transcriptions", "state": {"of the lifespan": 1}}
    await AddressMiddleware(refuse)(scope, unused, unused)  # type: ignore[arg-type]
    assert is_lingering(scope)
    assert scope["path"] == "/audio/transcriptions"
