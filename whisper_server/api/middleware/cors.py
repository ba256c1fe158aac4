"""What browsers are told of the pages that may read replies; Starlette's rules, ours for who is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send, header


class CorsMiddleware:
    """Answers preflights of pages that are allowed, and lets those pages read replies.

    Preflights of other pages pass, so that they are refused like all that such pages send: with an error that
    says what to do, and a line in the log.
    """

    def __init__(self, app: ASGIApp, *, origins: re.Pattern[str], exposed: Sequence[str]) -> None:
        """Take what matches the origins of pages, and the reply headers that their scripts may read."""
        self._app = app
        self._origins = origins
        self._cors = CORSMiddleware(
            app,
            allow_origin_regex=origins.pattern,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=exposed,
            allow_private_network=True,  # only to these origins
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, by way of Starlette's rules where the page is allowed."""
        origin = header(scope, b"origin") if scope["type"] == "http" else None
        is_allowed = origin is not None and self._origins.fullmatch(origin)
        await (self._cors if is_allowed else self._app)(scope, receive, send)
