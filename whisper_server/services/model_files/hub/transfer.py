"""Downloads one file over HTTP: resumes where an earlier attempt ended, and never waits for ever.

The bytes arrive in `<name>.part`; the caller checks them and gives the file its name. The connection is
huggingface_hub's (proxies, certificates, redirects, the token). Its own download is not used: it throws away
what has arrived when the connection breaks, and reports progress every 10 MB only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

STALL_S = 15.0  # without a byte, then the hub hangs
SLOW_S = 30.0  # window in which at least SLOW_BYTES must arrive
SLOW_BYTES = 30_000

_PARTIAL = 206
_RANGE_NOT_SATISFIABLE = 416


def part_of(path: Path) -> Path:
    """Return where the bytes of a file lie until all of them are there."""
    return path.with_name(f"{path.name}.part")


def download_file(
    url: str, path: Path, size_bytes: int | None, stall_s: float, on_bytes: Callable[[int], None]
) -> Path:
    """Download `url`, and return the part file with all its bytes; blocks.

    `on_bytes` gets the number of bytes that are there, whenever some arrive; what it raises ends the
    transfer. A connection that breaks off is opened again, as long as each one transfers something.

    Raises:
        OSError: the disk fails, or the hub refuses (HfHubHTTPError).
        TimeoutError: so little arrives that it would take for ever.
        Exception: the HTTP library's own, where the connection is lost. What has arrived stays.
    """
    part = part_of(path)
    while True:
        start = _start_of(part, size_bytes)
        if start == size_bytes:
            on_bytes(start)
            return part
        try:
            _append_from(url, part, start, stall_s, on_bytes)
        except OSError:
            raise
        except Exception as error:
            gained = part.stat().st_size - start if part.exists() else 0
            if gained <= 0 or "Timeout" in type(error).__name__ or not _is_of_connection(error):
                raise
            continue
        return part


def _start_of(part: Path, size_bytes: int | None) -> int:
    """Return how many bytes are there to resume from; throw away what cannot be a part of this file."""
    try:
        there = part.stat().st_size
    except FileNotFoundError:
        return 0
    if size_bytes is None or there > size_bytes:
        part.unlink()
        return 0
    return there


def _append_from(url: str, part: Path, start: int, stall_s: float, on_bytes: Callable[[int], None]) -> None:
    """Append what lies behind the first `start` bytes; from the first on where the hub knows no ranges."""
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # noqa: PLC0415

    with _open(url, start, stall_s) as response:
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # the next attempt starts from nothing
        hf_raise_for_status(response)
        if response.status_code != _PARTIAL:
            start = 0
        with part.open("ab" if start else "wb") as file:
            _copy(response.iter_bytes(), file, start, on_bytes)


def _open(url: str, start: int, stall_s: float) -> AbstractContextManager[Any]:
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # noqa: PLC0415

    # Compressed, the bytes could neither be counted nor resumed from.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    stream: AbstractContextManager[Any] = get_session().stream("GET", url, headers=headers, timeout=stall_s)
    return stream


def _copy(chunks: Any, file: BinaryIO, there: int, on_bytes: Callable[[int], None]) -> None:
    since, before = time.monotonic(), there
    for chunk in chunks:
        file.write(chunk)
        there += len(chunk)
        on_bytes(there)
        now = time.monotonic()
        if now - since >= SLOW_S:
            if there - before < SLOW_BYTES:
                raise TimeoutError(f"only {there - before} bytes in {now - since:.0f} s")
            since, before = now, there


def _is_of_connection(error: Exception) -> bool:
    """Tell whether the HTTP library lost its connection; it is httpx or its successor, by version."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
