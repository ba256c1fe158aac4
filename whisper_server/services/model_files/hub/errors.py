"""What an error of huggingface_hub, of its HTTP library or of the disk means, and what to do about it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whisper_server.core.errors import ModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whisper_server.core.types import ModelSource

_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


def explain(error: Exception, source: ModelSource, endpoint: str) -> ModelUnavailable:
    """Return what to tell the client: which model, what happened, what to do."""
    number = next((one.errno for one in _chain(error) if isinstance(one, OSError) and _is_of_disk(one)), None)
    if number in _FULL:
        reason = "the disk of WHISPER_CACHE_DIR is full"
    elif number in _READ_ONLY:
        reason = "WHISPER_CACHE_DIR cannot be written"
    else:
        reason = _of_hub(error, source, endpoint)
    return ModelUnavailable(f"The model {source.name!r} cannot be downloaded: {reason}.")


def _is_of_disk(error: OSError) -> bool:
    return error.errno in _FULL or (error.errno in _READ_ONLY and error.filename is not None)


def _of_hub(error: Exception, source: ModelSource, endpoint: str) -> str:
    from huggingface_hub import errors  # noqa: PLC0415  (only when a download has failed)

    hub = urlsplit(endpoint).hostname or "HF_ENDPOINT"  # without what else an address may hold
    where = f"{source.repo} at {hub}"
    if isinstance(error, errors.GatedRepoError):
        return f"{where} is gated; accept its terms there and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{where} does not exist or is private; check WHISPER_MODELS, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} has no revision {source.revision!r}; check WHISPER_MODELS"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "it is not in the cache and HF_HUB_OFFLINE forbids to download it"
    return (
        f"the hub {hub} does not answer properly ({_kind(error)}); check the network and HF_ENDPOINT,"
        " or name a folder with the model's files in WHISPER_MODELS"
    )


def _kind(error: Exception) -> str:
    """Return the names of the errors, innermost last: "LocalEntryNotFoundError, ReadTimeout"."""
    return ", ".join(dict.fromkeys(type(one).__name__ for one in _chain(error)))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
