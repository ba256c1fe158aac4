"""A server whose event loop a request can block: `python -m tests.support.stuck_server FLAGS`, fake engine.

A request of the id "stick" reads from a pipe into which nobody writes, as any blocking call might.
"""

from __future__ import annotations

import os
from typing import Any

from whisper_server.api.middleware import request_log
from whisper_server.api.server.run import run
from whisper_server.core.system.init_process import begin

_normal = request_log.RequestLogMiddleware.__call__


async def _stick(self: Any, scope: Any, receive: Any, send: Any) -> None:
    if (b"x-request-id", b"stick") in scope.get("headers", ()):
        os.read(os.pipe()[0], 1)
    await _normal(self, scope, receive, send)


if __name__ == "__main__":
    begin()
    request_log.RequestLogMiddleware.__call__ = _stick  # type: ignore[method-assign]
    run()
