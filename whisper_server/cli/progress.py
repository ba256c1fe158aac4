"""Bars for a person at a terminal: over the bytes of a download, and over the seconds of a recording."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_server.cli.inputs import STDIN
from whisper_server.cli.terminal import printable

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


def progress_bar(name: str, total_s: float | None) -> tqdm[Any]:
    """Return a bar over seconds of audio: done, speed in times real time, time left."""
    from tqdm import tqdm  # noqa: PLC0415  (--help stays quick)

    known = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{rate_noinv_fmt}, {remaining} left]"
    unknown = "{desc}: {n:.0f} s [{rate_noinv_fmt}]"
    return tqdm(
        total=total_s,
        desc="standard input" if name == STDIN else printable(Path(name).name),
        unit="x",
        bar_format=known if total_s else unknown,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    )
