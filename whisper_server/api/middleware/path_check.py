"""Paths with a line break or another control character are no paths of ours.

The router's patterns end with `$`, which matches before a line break too: `/health%0A` would be `/health` to
it, and something else to every comparison of paths.
"""

from __future__ import annotations

import re

from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send
from whisper_server.core.errors import RouteNotFound

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class PathCheckMiddleware:
    """Answers 404 to paths that no route has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] == "http" and _CONTROL.search(scope["path"]):
            raise RouteNotFound(
                "Invalid URL: it has a control character in it. GET /docs lists what there is."
            )
        await self._app(scope, receive, send)
