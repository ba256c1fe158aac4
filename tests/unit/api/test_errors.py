"""From exceptions to replies: the middleware and the handlers that make them, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from whisper_server.api.errors import error_reply
from whisper_server.api.framework_errors import install_handlers
from whisper_server.api.middleware.errors import ErrorMiddleware
from whisper_server.api.replies.sse import EventStream
from whisper_server.core import errors
from whisper_server.core.errors import (
    EngineFailure,
    ModelUnavailable,
    PayloadTooLarge,
    RecordingTooLarge,
    WhisperServerError,
)

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}


async def nothing() -> Any:
    raise AssertionError


async def replies_of(error: BaseException, *, begun: bool = False, media_type: str = "") -> list[Any]:
    """Return what is sent when an application raises, before or after its reply has begun."""
    headers = [(b"content-type", media_type.encode())] if media_type else []
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    await ErrorMiddleware(app)(dict(SCOPE), nothing, send)
    return sent


def all_errors(kind: type[WhisperServerError] = WhisperServerError) -> list[type[WhisperServerError]]:
    return [kind, *[deeper for child in kind.__subclasses__() for deeper in all_errors(child)]]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_openais_shape(kind: type[WhisperServerError]) -> None:
    about: dict[type, Callable[[], WhisperServerError]] = {
        PayloadTooLarge: lambda: PayloadTooLarge(10, 20),
        RecordingTooLarge: lambda: RecordingTooLarge(10),
    }
    error = about.get(kind, lambda: kind("what to do"))()
    reply = error_reply(error)
    body = json.loads(reply.body)["error"]
    assert body == {"message": error.message, "type": kind.type, "param": kind.param, "code": kind.code}
    assert reply.status == kind.status
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert ("retry-after" in reply.headers) == (reply.status in {429, 503} and kind.retry_helps)
    assert reply.headers.get("retry-after", "0").isdecimal()
    assert ("x-should-retry" in reply.headers) == (reply.status >= 500 and not kind.retry_helps)
    assert ("www-authenticate" in reply.headers) == (kind is errors.Unauthorized)


async def test_our_errors_and_their_causes(caplog: pytest.LogCaptureFixture) -> None:
    error = ModelUnavailable("not now")
    error.__cause__ = OSError("no route")
    start, body = await replies_of(error)
    assert start["status"] == 503
    assert json.loads(body["body"])["error"]["code"] == "model_unavailable"
    assert "no route" in caplog.text  # for the operator
    assert b"no route" not in body["body"]  # not for the client


async def test_a_bug_is_logged_once_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    start, body = await replies_of(ZeroDivisionError("secret"))
    assert start["status"] == 500
    assert (b"x-should-retry", b"false") in start["headers"]
    assert b"secret" not in body["body"]
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_the_servers_shutdown_is_a_503() -> None:
    start, _ = await replies_of(asyncio.CancelledError())
    assert start["status"] == 503


async def test_a_reply_that_has_begun_gets_no_second_one(caplog: pytest.LogCaptureFixture) -> None:
    for error in (EngineFailure("late"), asyncio.CancelledError(), ZeroDivisionError()):
        sent: list[Any] = []
        try:
            sent = await replies_of(error, begun=True)
        except (EngineFailure, asyncio.CancelledError):
            continue
        assert [message["type"] for message in sent] == ["http.response.start"]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EngineFailure("late"), "late"),
        (asyncio.CancelledError(), "The server is shutting down; try again later."),
        (ZeroDivisionError("secret"), "The server failed on this request; its log says why."),
    ],
)
async def test_a_stream_that_has_begun_ends_with_an_event(error: BaseException, message: str) -> None:
    sent = await replies_of(error, begun=True, media_type="text/event-stream; charset=utf-8")
    assert [part["type"] for part in sent] == ["http.response.start", "http.response.body"]
    assert sent[1]["more_body"] is False
    event = json.loads(sent[1]["body"].removeprefix(b"event: error\ndata: "))
    assert event["type"] == "error"
    assert event["error"]["message"] == message
    assert set(event["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", [errors.DeviceOutOfMemory, EngineFailure])
async def test_a_stream_that_has_not_begun_tells_whether_a_retry_helps(kind: Any) -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        raise kind("no")
        yield b""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await EventStream(frames())(scope, wait, send)

    async def wait() -> Any:
        await asyncio.Event().wait()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await ErrorMiddleware(app)(dict(SCOPE), wait, send)
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == kind.status
    assert (b"retry-after" in headers) == kind.retry_helps
    assert (headers.get(b"x-should-retry") == b"false") != kind.retry_helps


async def test_what_the_framework_raises() -> None:
    app = FastAPI()
    install_handlers(app)

    @app.get("/number")
    async def number(size: int) -> int:
        return size

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        wrong = await client.get("/number?size=x")
        assert wrong.status_code == 400
        assert wrong.json()["error"]["param"] == "size"
        other = await client.get("/teapot")
        assert other.status_code == 418
        assert other.json()["error"]["message"] == "short and stout"
