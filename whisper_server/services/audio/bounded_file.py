"""A binary file without a name, bounded in bytes: all that libav sees of a source.

Owns the byte limit and the handling of input errors. `read` and `seek` must never raise: libav calls them,
and PyAV would raise their error at some later call of the same thread.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from whisper_server.core.errors import InvalidAudio, PayloadTooLarge

FIRST_BYTES = 64  # kept of the beginning: enough for the DocType of a Matroska file


class BoundedFile:
    """Wraps a binary file; reads from its beginning, and in any order where the file can seek."""

    def __init__(self, file: BinaryIO, max_bytes: int, *, is_ours: bool) -> None:
        """Take a file; `close` closes it if `is_ours`.

        Raises:
            PayloadTooLarge: it is larger than `max_bytes`.
        """
        self._file = file
        self._max_bytes = max_bytes
        self._is_ours = is_ours
        self._position = 0
        self._failure: Exception | None = None
        self.first_bytes = b""
        seekable = getattr(file, "seekable", None)  # SpooledTemporaryFile has none before Python 3.11
        self._can_seek = seekable() if seekable else hasattr(file, "seek")
        self.size_bytes: int | None = None
        if self._can_seek:
            file.seek(0, os.SEEK_END)
            self.size_bytes = file.tell()
            file.seek(0)
            if self.size_bytes > max_bytes:
                raise PayloadTooLarge(self._max_bytes, self.size_bytes)

    def check(self) -> None:
        """Raise the first error that libav's reading has met.

        Raises:
            PayloadTooLarge: a source of unknown size went on for longer than the limit.
            InvalidAudio: the operating system could not read it.
        """
        if isinstance(self._failure, OSError):
            raise InvalidAudio(f"The file cannot be read: {self._failure.strerror}.") from self._failure
        if self._failure:
            raise self._failure

    def seekable(self) -> bool:
        """Tell whether libav may jump."""
        return bool(self._can_seek)

    def tell(self) -> int:
        """Return the position from the beginning."""
        return self._position

    def read(self, n_bytes: int) -> bytes:
        """Read; after a failure or over the limit the file seems to end."""
        if self._failure:
            return b""
        try:
            data = self._file.read(n_bytes)
        except OSError as error:
            self._failure = error
            return b""
        if self._position < FIRST_BYTES:
            self.first_bytes = self.first_bytes[: self._position] + data[: FIRST_BYTES - self._position]
        self._position += len(data)
        # Where the size is known it was checked; a broken header may jump far beyond the end.
        if self.size_bytes is None and self._position > self._max_bytes:
            self._failure = PayloadTooLarge(self._max_bytes, self._position)
            return b""
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; return -1 where that is impossible, which broken headers do ask for."""
        try:
            position = self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1
        self._position = position if isinstance(position, int) else self._file.tell()
        return self._position

    def close(self) -> None:
        """Close the file if it is ours."""
        if self._is_ours:
            self._file.close()
