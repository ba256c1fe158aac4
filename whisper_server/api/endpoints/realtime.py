"""The realtime API: transcription sessions over a WebSocket.

Moves events between the socket and `services.realtime`; what they mean is decided there.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from whisper_server.api.asgi import Arriving
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.ephemeral_keys import session_of, socket_key
from whisper_server.api.requests.json_text import parse_json
from whisper_server.core.errors import InvalidRequest
from whisper_server.services.container import Services
from whisper_server.services.realtime.configuration import SessionConfig
from whisper_server.services.realtime.conversation import Conversation, Means
from whisper_server.services.realtime.params import params_of
from whisper_server.services.realtime.session import Session
from whisper_server.services.realtime.turn_decoder import TurnDecoder

router = APIRouter()

SUBPROTOCOL = "realtime"  # a browser closes the socket unless one that it offered is chosen
GOING_AWAY = 1001
SESSION_S = 3600  # of the hosted API; a client that stays longer is told when it began


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """Open a transcription session; refused as a request is, before the handshake is answered."""
    services: Services = socket.app.state.services
    services.shutdown.check_open()
    key = socket_key(socket.scope)
    config = SessionConfig().updated(session_of(key, services.settings.api_key.encode(), time.time()) or {})
    if model := socket.query_params.get("model"):
        config = config.updated({"audio": {"input": {"transcription": {"model": model}}}})
    with services.admission.enter() as slot, services.live.one():
        Arriving.count(socket.scope, slot.arrive)
        session = Session(
            config,
            partial(params_of, catalog=services.catalog),
            new_id=new_id,
            expires_at=int(time.time()) + SESSION_S,
        )
        offered = socket.scope["subprotocols"]
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        pump = _Pump(socket, services)
        decoder = TurnDecoder(services.transcriber, services.models)
        means = Means(decoder, services.pool, services.metrics, slot, pump.send)
        await Conversation(session, means).run(pump.events())
        await socket.close(GOING_AWAY)


class _Pump:
    """A socket as the conversation sees it: an iterator of events, and a function that sends one."""

    def __init__(self, socket: WebSocket, services: Services) -> None:
        self._socket = socket
        self._draining = services.live.draining
        self._idle_s = services.settings.realtime_idle_s
        self._stall_s = services.settings.stall_timeout_s

    async def events(self) -> AsyncGenerator[dict[str, Any] | InvalidRequest, None]:
        """Yield what the client sends, until the server drains or the client has been silent for too long.

        Raises:
            ClientDisconnected: the client has closed the socket.
        """
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            while True:
                coming = asyncio.ensure_future(self._socket.receive())
                try:
                    await asyncio.wait(
                        {coming, draining}, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not coming.done():
                        return
                    message = coming.result()
                finally:
                    coming.cancel()
                if message["type"] == "websocket.disconnect":
                    raise ClientDisconnected
                yield _parsed(message.get("text") or message.get("bytes") or "")
        finally:
            draining.cancel()

    async def send(self, event: dict[str, Any]) -> None:
        """Send one event.

        Raises:
            ClientDisconnected: the client is gone, or takes nothing any more.
        """
        try:
            async with asyncio.timeout(self._stall_s):
                await self._socket.send_text(json.dumps(event, ensure_ascii=False))
        except (TimeoutError, WebSocketDisconnect) as error:
            raise ClientDisconnected from error


def _parsed(text: str | bytes) -> dict[str, Any] | InvalidRequest:
    try:
        parsed = parse_json(text.encode("utf-8", "replace") if isinstance(text, str) else text)
        if not isinstance(parsed.value, dict):
            return InvalidRequest("An event is a JSON object with a 'type'.")
        event = parsed.fields(parsed.value.keys() - {"audio"})
        if isinstance(audio := parsed.value.get("audio"), str):
            event["audio"] = parsed.content(audio)
    except InvalidRequest as error:
        return error
    return event


def new_id(prefix: str) -> str:
    """Return a random id, which cannot be guessed."""
    return f"{prefix}_{os.urandom(12).hex()}"
