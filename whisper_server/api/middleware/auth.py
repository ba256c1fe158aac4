"""The API key, where the operator set one."""

from __future__ import annotations

import hmac

from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send, header
from whisper_server.core.errors import Unauthorized

# Probes have no key, and a browser cannot send one before it shows the page that asks for it.
OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/docs/"


class AuthMiddleware:
    """Asks for `Authorization: Bearer <key>` on every path but the open ones; no key set: passes on.

    Azure's clients send the key as `api-key`, which does as well.

    A WebSocket without it is refused by closing it before it opens.
    """

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._api_key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key before anything of the body is read."""
        is_request = scope["type"] == "http" and not _is_open(scope["path"])
        if self._api_key and (is_request or scope["type"] == "websocket"):
            try:
                self._check(header(scope, b"authorization"), header(scope, b"api-key"))
            except Unauthorized:
                if is_request:
                    raise
                await send({"type": "websocket.close", "code": 1008})
                return
        await self._app(scope, receive, send)

    def _check(self, authorization: str | None, azure_key: str | None) -> None:
        scheme, _, key = (authorization or f"bearer {azure_key or ''}").partition(" ")
        if scheme.lower() != "bearer" or not (authorization or azure_key):
            raise Unauthorized("This server asks for an API key. Send it as 'Authorization: Bearer <key>'.")
        # In constant time: a comparison that stops at the first difference tells how much was right.
        if not hmac.compare_digest(key.strip(" \t").encode("latin-1"), self._api_key):
            raise Unauthorized("Incorrect API key provided. Use the key that WHISPER_API_KEY holds.")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(_OPEN_FOLDER)
