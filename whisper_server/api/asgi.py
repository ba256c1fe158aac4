"""The types of ASGI, and the few header questions that pure ASGI code asks; standard library only."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# In the scope's state:
_LINGERS = "is_lingering"
_ARRIVING = "arriving"


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a header, in order; `name` in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header, None where there is none."""
    return next(iter(header_values(scope, name)), None)


def wants_page(scope: Scope) -> bool:
    """Tell whether a request to `/` comes from a browser that is to show what it gets."""
    return "text/html" in (header(scope, b"accept") or "")


def log_fields(scope: Scope) -> dict[str, Any]:
    """Return what a request's log line tells beyond the usual; a route adds to it."""
    state: dict[str, Any] = scope.setdefault("state", {})
    fields: dict[str, Any] = state.setdefault("log_fields", {})
    return fields


def reply_headers(scope: Scope) -> dict[str, str]:
    """Return what a request's reply has in its headers beyond what it is; a route adds to it."""
    state: dict[str, Any] = scope.setdefault("state", {})
    headers: dict[str, str] = state.setdefault("reply_headers", {})
    return headers


def mark_lingering(scope: Scope) -> None:
    """Say that a request has its answer, and that the rest of it is only read so that the answer is heard."""
    scope.setdefault("state", {})[_LINGERS] = True


def is_lingering(scope: Scope) -> bool:
    """Tell whether `mark_lingering` was called."""
    return _LINGERS in scope.get("state", {})


class Arriving:
    """What is held of a WebSocket's events that were not taken yet, for who counts it.

    It lies in the scope's state from the beginning, because layers between may copy both.
    """

    def __init__(self, scope: Scope) -> None:
        self._count: Callable[[int], None] | None = None
        scope.setdefault("state", {})[_ARRIVING] = self

    def tell(self, n_bytes: int) -> None:
        """Tell how many bytes there are; raises what the one who counts raises."""
        if self._count is not None:
            self._count(n_bytes)

    @staticmethod
    def count(scope: Scope, count: Callable[[int], None]) -> None:
        """Have `count` told; what it raises ends the connection."""
        arriving = scope.get("state", {}).get(_ARRIVING)
        if isinstance(arriving, Arriving):
            arriving._count = count


def new_request_id() -> str:
    """Return a name for a request whose client gave it none."""
    return f"req_{os.urandom(12).hex()}"
