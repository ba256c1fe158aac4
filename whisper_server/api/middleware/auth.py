"""The API key, where the operator set one."""

from __future__ import annotations

import hmac
import time

from whisper_server.api import ephemeral_keys
from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send, header, header_values
from whisper_server.core.errors import Unauthorized

SUBPROTOCOL_KEY = "openai-insecure-api-key."  # before the key, where it is a subprotocol
OPEN_PATHS = frozenset({"/health", "/ready"})  # probes have no key


class AuthMiddleware:
    """Asks for `Authorization: Bearer <key>` on every path but the probes'; no key set: passes on.

    Web pages cannot set headers of a WebSocket: there the key may be one of the subprotocols, and it may be a
    short-lived one (`ephemeral_keys`).
    """

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._api_key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key before anything of the body is read."""
        if self._api_key and scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            self._check(header(scope, b"authorization"))
        elif self._api_key and scope["type"] == "websocket":
            self._check_socket(scope)
        await self._app(scope, receive, send)

    def _check_socket(self, scope: Scope) -> None:
        offered = ",".join(header_values(scope, b"sec-websocket-protocol")).split(",")
        keys = [each.strip().removeprefix(SUBPROTOCOL_KEY) for each in offered if SUBPROTOCOL_KEY in each]
        value = f"Bearer {keys[0]}" if keys else header(scope, b"authorization") or ""
        key = value.partition(" ")[2].strip(" \t")
        if not ephemeral_keys.is_valid(key, self._api_key, time.time()):
            self._check(value)

    def _check(self, value: str | None) -> None:
        scheme, _, key = (value or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("This server asks for an API key. Send it as 'Authorization: Bearer <key>'.")
        # In constant time: a comparison that stops at the first difference tells how much was right.
        if not hmac.compare_digest(key.strip(" \t").encode("latin-1"), self._api_key):
            raise Unauthorized("Incorrect API key provided. Use the key that WHISPER_API_KEY holds.")
