"""A server that tells what is inside: `python -m tests.soak.counted_server FLAGS`.

For each byte on stdin it writes a line of JSON to stdout: what it holds at that moment.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from typing import Any

from whisper_server.api.asgi import Receive, Scope, Send
from whisper_server.api.server import run
from whisper_server.api.server.startup import StartupApp
from whisper_server.core.system.allocator import return_memory


class Counted(StartupApp[Any]):
    """Counts itself when asked to."""

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._obey, args=(loop,), name="counting", daemon=True).start()
        await super()._lifespan(scope, receive, send)

    def _obey(self, loop: asyncio.AbstractEventLoop) -> None:
        while os.read(0, 1):
            counted = asyncio.run_coroutine_threadsafe(self._count(), loop).result()
            os.write(1, json.dumps(counted).encode() + b"\n")

    async def _count(self) -> dict[str, Any]:
        return_memory()  # what only waits to be collected, or lies free, is no leak
        services = self._app.state.services
        queue = services.admission.state()
        return {
            "tasks": len(asyncio.all_tasks()),
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "leases": sum(model.leases for model in services.models.loaded()),
            "objects": len(gc.get_objects()),
            "queue": [queue.requests, queue.audio_s, queue.upload_bytes],
        }


if __name__ == "__main__":
    run.StartupApp = Counted  # type: ignore[misc]
    run.run()
