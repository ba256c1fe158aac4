"""A front that is lost: the request goes to another one, unless its reply has begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from whisper_server.api.asgi import Message, Receive, Scope, Send
from whisper_server.cluster import retry
from whisper_server.cluster.retry import ATTEMPTS, MESSAGE_BYTES, KeptBytes, RetryMiddleware

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
EVENTS = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


class Fronts:
    """Fronts that are lost after so many messages, one for each number; then a good one."""

    def __init__(self, *lost_after: int, start: Message = START) -> None:
        self.lost_after = list(lost_after)
        self.bodies: list[bytes] = []
        self.start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        lost_after = self.lost_after.pop(0) if self.lost_after else None
        n_messages = 0
        self.bodies.append(b"")
        while more:
            if n_messages == lost_after:
                return
            message = await receive()
            n_messages += 1
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            self.bodies[-1] = body
            more = message["more_body"]
        if n_messages == lost_after:
            return
        await send(dict(self.start))
        if lost_after is not None:  # lost while it replies
            return
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def ask(app: Any, *parts: bytes, leaves: bool = False, kept: KeptBytes | None = None) -> list[Message]:
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": leaves or number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    messages += [{"type": "http.disconnect"}] * 9
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await RetryMiddleware(app, kept=kept)({"type": "http", "headers": []}, receive, send)
    return sent


@pytest.mark.parametrize("lost_after", [(0,), (1,), (3,), (1, 3, 2)])
async def test_the_next_front_gets_the_whole_body(lost_after: tuple[int, ...]) -> None:
    fronts = Fronts(*lost_after)
    sent = await ask(fronts, b"ab", b"cd", b"ef")
    assert sent[-1]["body"] == b"abcdef"
    assert len(fronts.bodies) == len(lost_after) + 1


@pytest.mark.parametrize("given", [[], [(b"Idempotency-Key", b"mine")]])
async def test_all_fronts_hear_the_same_name_of_a_request(
    monkeypatch: pytest.MonkeyPatch, given: list[tuple[bytes, bytes]]
) -> None:
    monkeypatch.setattr(retry, "PAUSES_S", (0.0,) * ATTEMPTS)
    seen: list[list[bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append([value for name, value in scope["headers"] if name.lower() == b"idempotency-key"])

    async def nothing(message: Message | None = None) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    for _ in range(2):
        await RetryMiddleware(app)({"type": "http", "headers": given}, nothing, nothing)  # type: ignore[arg-type]
    assert all(len(names) == 1 for names in seen)
    assert len(seen) == 2 * ATTEMPTS
    assert len({names[0] for names in seen}) == (1 if given else 2)


async def test_a_request_that_ends_all_fronts_is_answered() -> None:
    fronts = Fronts(*[1] * 20)
    sent = await ask(fronts, b"ab")
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["type"] == "server_error"
    assert len(fronts.bodies) == ATTEMPTS


async def test_a_client_that_left_is_not_answered_and_not_asked_for_again() -> None:
    fronts = Fronts()
    assert await ask(fronts, b"ab", leaves=True) == []
    assert len(fronts.bodies) == 1


async def test_what_was_answered_in_part_is_not_asked_again() -> None:
    fronts = Fronts(9)
    assert [each["type"] for each in await ask(fronts, b"ab")] == ["http.response.start"]
    assert len(fronts.bodies) == 1


async def test_a_stream_that_breaks_off_says_so() -> None:
    sent = await ask(Fronts(9, start=EVENTS), b"ab")
    assert sent[-1]["body"].startswith(b"event: error\ndata: {")
    assert not sent[-1].get("more_body", False)


async def test_bodies_beyond_the_room_are_passed_on_and_not_kept() -> None:
    kept = KeptBytes(4 + 2 * MESSAGE_BYTES)
    assert (await ask(Fronts(), b"abc", b"def", kept=kept))[-1]["body"] == b"abcdef"
    fronts = Fronts(2)
    assert (await ask(fronts, b"abc", b"def", kept=kept))[0]["status"] == 503
    assert len(fronts.bodies) == 1
    assert (await ask(Fronts(1), b"abcd", kept=kept))[-1]["body"] == b"abcd"  # the room is free again


@pytest.mark.parametrize(("status", "kind"), [(503, "server_error"), (429, "rate_limit_error"), (408, None)])
async def test_errors_of_the_proxy_become_ours(status: int, kind: str | None) -> None:
    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request dropped", "more_body": False})

    start, body = await ask(busy, b"ab")
    assert start["status"] == status
    error = json.loads(body["body"])["error"]
    assert "cluster" in error["message"]
    assert kind is None or error["type"] == kind
    assert dict(start["headers"])[b"content-type"] == b"application/json"


async def test_a_request_has_one_name() -> None:
    headers = [(b"x-request-id", b"1"), (b"X-Request-ID", b"1"), (b"content-type", b"application/json")]
    sent = await ask(Fronts(start={**START, "headers": headers}), b"ab")
    assert sent[0]["headers"] == [headers[0], headers[2]]


async def test_what_is_not_http_passes() -> None:
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731
    await RetryMiddleware(app)({"type": "websocket"}, nothing, nothing)
    assert passed == ["websocket"]
