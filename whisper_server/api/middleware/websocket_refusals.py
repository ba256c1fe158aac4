"""A WebSocket that is refused gets the reply that an HTTP request would: status, headers and error."""

from __future__ import annotations

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send
from whisper_server.api.errors import send_error
from whisper_server.core.errors import RouteNotFound

_AS_REFUSAL = {
    "http.response.start": "websocket.http.response.start",
    "http.response.body": "websocket.http.response.body",
}


class WebSocketRefusalMiddleware:
    """Turns HTTP replies to a handshake into ASGI's "WebSocket Denial Response".

    So everything below answers a handshake as it answers a request. A socket that is closed before it is
    accepted had no route: that is what Starlette does with unknown paths.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        is_accepted = False

        async def send_translated(message: Message) -> None:
            nonlocal is_accepted
            if message["type"] == "websocket.close" and not is_accepted:
                await send_error(send_translated, RouteNotFound("There is no WebSocket at this path."))
                return
            is_accepted = is_accepted or message["type"] == "websocket.accept"
            await send({**message, "type": _AS_REFUSAL.get(message["type"], message["type"])})

        await self._app(scope, receive, send_translated)
