"""What /health says; one function, because the startup app answers it before the real one is there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from whisper_server import __version__

if TYPE_CHECKING:
    from whisper_server.services.model_manager import ModelState

PROBES = frozenset({"/health", "/ready"})  # asked every second or so, by supervisors and load balancers
_STARTED_AT = time.monotonic()  # a process starts once; this module is imported first of all


def health_body(models: Iterable[ModelState] = (), *, is_draining: bool = False) -> dict[str, Any]:
    """Return the body of /health; `models` are those in memory or on their way.

    The status is "degraded" while a model's engine was lost and is being reloaded.
    """
    models = list(models)
    is_degraded = any(model.state == "degraded" for model in models)
    return {
        "status": "stopping" if is_draining else "degraded" if is_degraded else "ok",
        "version": __version__,
        "uptime_s": round(time.monotonic() - _STARTED_AT, 3),
        "models": [
            {
                "name": model.name,
                "state": model.state,
                "memory_bytes": model.memory_bytes,
                **({"engine": model.engine} if model.engine is not None else {}),
            }
            for model in models
        ],
    }
