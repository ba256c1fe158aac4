"""The API key, where the operator set one."""

from __future__ import annotations

import hmac
import time

from whisper_server.api import ephemeral_keys
from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send, header, wants_page
from whisper_server.core.errors import Unauthorized

# Probes have no key, and a browser cannot send one before it shows the page that asks for it.
OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/docs/"
_PAGE_FOLDER = "/web/"


class AuthMiddleware:
    """Asks for `Authorization: Bearer <key>` on every path but the open ones; no key set: passes on.

    Azure's clients send the key as `api-key`, which does as well.

    Web pages cannot set headers of a WebSocket: there the key may be one of the subprotocols, and it may be a
    short-lived one (`ephemeral_keys`).
    """

    def __init__(self, app: ASGIApp, *, api_key: str, shows_page: bool = False) -> None:
        """Take `shows_page`: the web page, which asks for the key itself, needs none."""
        self._app = app
        self._api_key = api_key.encode()
        self._shows_page = shows_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key before anything of the body is read."""
        if self._api_key and scope["type"] == "http" and not self._is_open(scope):
            self._check(header(scope, b"authorization"), header(scope, b"api-key"))
        elif self._api_key and scope["type"] == "websocket":
            self._check_socket(scope)
        await self._app(scope, receive, send)

    def _check_socket(self, scope: Scope) -> None:
        key = ephemeral_keys.socket_key(scope)
        if not ephemeral_keys.is_valid(key, self._api_key, time.time()):
            authorization = f"Bearer {key}" if key else header(scope, b"authorization")
            self._check(authorization, header(scope, b"api-key"))

    def _check(self, authorization: str | None, azure_key: str | None) -> None:
        scheme, _, key = (authorization or f"bearer {azure_key or ''}").partition(" ")
        if scheme.lower() != "bearer" or not (authorization or azure_key):
            raise Unauthorized("This server asks for an API key. Send it as 'Authorization: Bearer <key>'.")
        # In constant time: a comparison that stops at the first difference tells how much was right.
        if not hmac.compare_digest(key.strip(" \t").encode("latin-1"), self._api_key):
            raise Unauthorized("Incorrect API key provided. Use the key that WHISPER_API_KEY holds.")

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        is_page = self._shows_page and (path.startswith(_PAGE_FOLDER) or (path == "/" and wants_page(scope)))
        return is_page or path in OPEN_PATHS or path.startswith(_OPEN_FOLDER)
