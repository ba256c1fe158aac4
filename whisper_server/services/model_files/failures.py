"""What a request that waits for a model gets to see when preparing or loading it failed."""

from __future__ import annotations

import logging
from typing import Literal

from whisper_server.core.errors import ModelUnavailable, WhisperServerError
from whisper_server.core.paths import without_paths


def as_ours(
    error: BaseException, name: str, verb: Literal["load", "prepare"], log: logging.Logger
) -> WhisperServerError:
    """Log the failure, and return it as one of ours, which tells a client nothing of where files lie.

    `verb` is what failed.
    """
    stem = verb.removesuffix("e")
    if isinstance(error, WhisperServerError):
        log.warning("model %s is not %sed: %s", name, stem, error)
        error.message = without_paths(error.message)
        return error
    log.error("%sing model %s failed", stem, name, exc_info=error)
    ours = ModelUnavailable(
        f"The model {name!r} cannot be {stem}ed ({type(error).__name__}); the server's log says more."
    )
    ours.__cause__ = error
    return ours
