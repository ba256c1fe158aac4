"""Keys for web pages and apps that must not have the server's own: short-lived, for WebSockets only.

A key is its time of expiry and a signature made with the server's key, so none is stored, and all end when
that key is changed. Without a key of the server's there is nothing to protect, and any will do.
"""

from __future__ import annotations

import hashlib
import hmac
import os

PREFIX = "ek_"
LIFETIME_S = 600  # of the hosted API


def new_key(api_key: bytes, now_s: float) -> tuple[str, int]:
    """Return a key, and when it expires, in seconds since 1970."""
    expires_at = int(now_s) + LIFETIME_S
    claim = f"{expires_at:x}.{os.urandom(8).hex()}"
    return f"{PREFIX}{claim}.{_signature(api_key, claim)}", expires_at


def is_valid(key: str, api_key: bytes, now_s: float) -> bool:
    """Tell whether this server made the key, and not too long ago."""
    claim, _, signature = key.removeprefix(PREFIX).rpartition(".")
    expiry = claim.partition(".")[0]
    # In constant time: a comparison that stops at the first difference tells how much was right.
    if not key.startswith(PREFIX) or not hmac.compare_digest(
        signature.encode("utf-8", "replace"), _signature(api_key, claim).encode()
    ):
        return False
    return int(expiry, 16) >= now_s  # ours, so it is a number


def _signature(api_key: bytes, claim: str) -> str:
    return hmac.new(api_key, claim.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
