"""From exceptions to replies: the middleware and the handlers that make them, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from whisper_server.api.errors import error_reply
from whisper_server.api.handlers import install_handlers
from whisper_server.api.middleware import ErrorMiddleware
from whisper_server.core import errors
from whisper_server.core.errors import EngineFailure, ModelUnavailable, WhisperServerError

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}


async def nothing() -> Any:
    raise AssertionError


async def replies_of(error: BaseException, *, begun: bool = False) -> list[Any]:
    """Return what is sent when an application raises, before or after its reply has begun."""
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    await ErrorMiddleware(app)(dict(SCOPE), nothing, send)
    return sent


def all_errors(kind: type[WhisperServerError] = WhisperServerError) -> list[type[WhisperServerError]]:
    return [kind, *[deeper for child in kind.__subclasses__() for deeper in all_errors(child)]]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_openais_shape(kind: type[WhisperServerError]) -> None:
    reply = error_reply(kind("what to do"))
    body = json.loads(reply.body)["error"]
    assert body == {"message": "what to do", "type": kind.type, "param": kind.param, "code": kind.code}
    assert reply.status == kind.status
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert ("retry-after" in reply.headers) == (reply.status == 503)
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
