"""The process that a model folder ends in place of the server: it converts it and tries the result."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from whisper_server.core.errors import WhisperServerError
from whisper_server.core.system.child_process import answer_one
from whisper_server.services.engines.base import EngineSpec


def main() -> None:
    """Be the process."""
    answer_one(_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from whisper_server.services.engines.ct2 import load  # noqa: PLC0415  (under the limits)

    logging.getLogger(load.__name__).setLevel(logging.WARNING)  # the process that loads it says the same
    folder = Path(request["folder"])
    try:
        load.convert_and_try(
            folder,
            EngineSpec(**request["spec"]),
            Path(request["cache_dir"]),
            request["quantization"],
            request["encoder"],
        )
    except WhisperServerError as error:
        return {"error": error.message}
    except MemoryError:
        return {"error": f"The model folder {folder.name!r} cannot be used: it takes too much memory."}
    return {}
