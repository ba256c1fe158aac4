"""Requests to another server's address for the same thing are served here."""

from __future__ import annotations

from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send
from whisper_server.api.compat.addresses import keep_address, own_address


class AddressMiddleware:
    """Puts our own path into the scope, so that nothing below knows of another; HTTP and WebSocket."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Translate the path, then pass on."""
        if scope["type"] in {"http", "websocket"}:
            address = own_address(scope["path"])
            # The state is the server's own: it reads there what layers below say of the connection.
            scope = {**scope, "path": address.path, "state": scope.setdefault("state", {})}
            keep_address(scope, address)
        await self._app(scope, receive, send)
