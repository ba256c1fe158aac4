"""Keys for web pages and apps that must not have the server's own: short-lived, for WebSockets only.

A key is its time of expiry, what the session is to begin with, and a signature made with the server's key. So
none is stored, every front of a cluster knows it, and all end when that key is changed. Without a key of the
server's there is nothing to protect, and any will do.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from whisper_server.api.asgi import Scope, header, header_values
from whisper_server.core.errors import InvalidRequest

PREFIX = "ek_"
LIFETIME_S = 600  # of the hosted API, where nothing else is asked for
MAX_SESSION_BYTES = 4096  # it travels in a header, and proxies let 8 KiB of those pass
_SUBPROTOCOL = "openai-insecure-api-key."  # before the key, where it is a subprotocol


def new_key(
    api_key: bytes, now_s: float, lifetime_s: int = LIFETIME_S, session: Mapping[str, Any] | None = None
) -> tuple[str, int]:
    """Return a key, and when it expires, in seconds since 1970; the session is anything that JSON can say.

    Raises:
        InvalidRequest: the session is too long for a key.
    """
    expires_at = int(now_s) + lifetime_s
    claim = f"{expires_at:x}.{os.urandom(8).hex()}"
    if session:
        written = json.dumps(session, separators=(",", ":")).encode()
        if len(written) > MAX_SESSION_BYTES:
            raise InvalidRequest(
                f"A key has room for {MAX_SESSION_BYTES} bytes of session: send the rest as session.update.",
                param="session",
            )
        claim += "." + base64.urlsafe_b64encode(written).decode().rstrip("=")
    return f"{PREFIX}{claim}.{_signature(api_key, claim)}", expires_at


def is_valid(key: str, api_key: bytes, now_s: float) -> bool:
    """Tell whether this server made the key, and not too long ago."""
    return _claim(key, api_key, now_s) is not None


def session_of(key: str, api_key: bytes, now_s: float) -> object:
    """Return what the key says of its session; None: nothing, or it is no key of this server's."""
    claim = _claim(key, api_key, now_s) or ()
    if len(claim) < 3:
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(claim[2] + "=" * (-len(claim[2]) % 4)))
    except (ValueError, RecursionError):  # anybody's signature is right where the server has no key
        return None


def socket_key(scope: Scope) -> str:
    """Return the key that came with a handshake: a subprotocol, as web pages send it, or a bearer's."""
    offered = ",".join(header_values(scope, b"sec-websocket-protocol")).split(",")
    keys = [each.strip().removeprefix(_SUBPROTOCOL) for each in offered if _SUBPROTOCOL in each]
    if keys:
        return keys[0]
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    return key.strip(" \t") if scheme.lower() == "bearer" else ""


def _claim(key: str, api_key: bytes, now_s: float) -> list[str] | None:
    """Return the parts of a key that this server signed and that is not over."""
    claim, _, signature = key.removeprefix(PREFIX).rpartition(".")
    # In constant time: a comparison that stops at the first difference tells how much was right.
    if not key.startswith(PREFIX) or not hmac.compare_digest(
        signature.encode("utf-8", "replace"), _signature(api_key, claim).encode()
    ):
        return None
    parts = claim.split(".")
    try:
        return parts if int(parts[0], 16) >= now_s else None
    except ValueError:  # signed by somebody else, where the server has no key
        return None


def _signature(api_key: bytes, claim: str) -> str:
    return hmac.new(api_key, claim.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
