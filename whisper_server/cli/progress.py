"""A bar over bytes: how much of a download is there, how fast it comes, how long it will take."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


class ByteBar:
    """Draws itself from the first bytes on, and only for a person at a terminal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: tqdm[Any] | None = None

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """Take how far the download is."""
        if self._bar is None:
            from tqdm import tqdm  # noqa: PLC0415  (--help stays quick)

            self._bar = tqdm(
                total=total_bytes,
                initial=done_bytes,  # what an earlier attempt has brought is no speed of this one
                desc=self._name,
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                disable=not sys.stderr.isatty(),
                dynamic_ncols=True,
                leave=False,
            )
        self._bar.update(done_bytes - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
