"""What those who wait for a model get to see when bringing or loading it failed."""

from __future__ import annotations

import logging

from whisper_server.core.errors import ModelUnavailable, WhisperServerError


def as_ours(error: BaseException, name: str, verb: str, log: logging.Logger) -> WhisperServerError:
    """Log the failure, and return it as one of ours; a foreign error's text may say too much for a client.

    `verb` is what failed, "load" or "pull".
    """
    if isinstance(error, WhisperServerError):
        log.warning("model %s is not %sed: %s", name, verb, error)
        return error
    log.error("%sing model %s failed", verb, name, exc_info=error)
    ours = ModelUnavailable(
        f"The model {name!r} cannot be {verb}ed ({type(error).__name__}); the server's log says more."
    )
    ours.__cause__ = error
    return ours
