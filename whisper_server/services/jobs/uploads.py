"""Uploads of unfinished jobs: files in a folder beside the embedded database, else rows of the database.

A file is whole before it has its name. Servers that share a database need not share a disk, so there the
bytes are in it, and whoever takes a job up writes them into a file of its own for as long. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine, delete, insert, select

from whisper_server.core.system.durable import sync_folder
from whisper_server.services.jobs.schema import uploads

_PART_BYTES = 4 << 20
_STALE_S = 3600.0  # age of a file that belongs to nothing


class Uploads(Protocol):
    """Where uploads are kept."""

    def put(self, job_id: str, data: Iterable[bytes | memoryview]) -> int:
        """Keep an upload, in place of one that is there; return its size in bytes.

        Raises OSError where there is no room for it, and what `data` raises; nothing is kept then.
        """
        ...

    def lend(self, job_id: str) -> contextlib.AbstractContextManager[Path]:
        """Lend an upload as a file. Raises OSError where it is not there."""
        ...

    def has(self, job_id: str) -> bool:
        """Tell whether an upload is there."""
        ...

    def remove(self, job_id: str) -> None:
        """Forget an upload, if there is one."""
        ...

    def ids(self) -> list[str]:
        """Return the jobs whose uploads have been here for a while."""
        ...


class FolderUploads:
    """Uploads as files that only this user may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, job_id: str, data: Iterable[bytes | memoryview]) -> int:
        """See `Uploads`."""
        temporary = self._folder / f".{job_id}.{os.urandom(4).hex()}"
        try:
            size = _write(temporary, data)
            temporary.replace(self._file(job_id))
            sync_folder(self._folder)
        finally:
            temporary.unlink(missing_ok=True)
        return size

    @contextlib.contextmanager
    def lend(self, job_id: str) -> Iterator[Path]:
        """See `Uploads`."""
        if not self.has(job_id):
            raise FileNotFoundError(job_id)
        yield self._file(job_id)

    def has(self, job_id: str) -> bool:
        """See `Uploads`."""
        return self._file(job_id).is_file()

    def remove(self, job_id: str) -> None:
        """See `Uploads`."""
        self._file(job_id).unlink(missing_ok=True)

    def ids(self) -> list[str]:
        """See `Uploads`; what a server left half written goes here."""
        found = []
        limit = time.time() - _STALE_S
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # gone meanwhile
                if file.stat().st_mtime < limit:
                    if file.name.startswith("."):
                        file.unlink()
                    else:
                        found.append(file.name)
        return found

    def _file(self, job_id: str) -> Path:
        return self._folder / job_id


class DatabaseUploads:
    """Uploads as rows, and as files of this server while it works on them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, job_id: str, data: Iterable[bytes | memoryview]) -> int:
        """See `Uploads`."""
        size = 0
        with self._engine.begin() as connection:
            connection.execute(delete(uploads).where(uploads.c.job == job_id))
            for number, part in enumerate(_parts(data)):
                connection.execute(insert(uploads).values(job=job_id, part=number, data=part))
                size += len(part)
        return size

    @contextlib.contextmanager
    def lend(self, job_id: str) -> Iterator[Path]:
        """See `Uploads`."""
        file = self._folder / f"{job_id}.{os.urandom(4).hex()}"
        try:
            _write(file, self._stored(job_id))
            yield file
        finally:
            file.unlink(missing_ok=True)

    def has(self, job_id: str) -> bool:
        """See `Uploads`."""
        with self._engine.connect() as connection:
            wanted = select(uploads.c.part).where(uploads.c.job == job_id).limit(1)
            return connection.scalar(wanted) is not None

    def remove(self, job_id: str) -> None:
        """See `Uploads`."""
        with self._engine.begin() as connection:
            connection.execute(delete(uploads).where(uploads.c.job == job_id))

    def ids(self) -> list[str]:
        """See `Uploads`: rows go with their job, so only files of a server that was killed are left."""
        limit = time.time() - 24 * _STALE_S
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < limit:
                    file.unlink()
        return []

    def _stored(self, job_id: str) -> Iterator[bytes]:
        number = 0
        with self._engine.connect() as connection:
            while True:
                wanted = select(uploads.c.data).where(uploads.c.job == job_id, uploads.c.part == number)
                part = connection.scalar(wanted)
                if part is None:
                    break
                yield bytes(part)
                number += 1
        if not number:
            raise FileNotFoundError(job_id)


def _write(file: Path, data: Iterable[bytes | memoryview]) -> int:
    """Write a new file to the disk; return its size."""
    size = 0
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with open(descriptor, "wb") as opened:  # noqa: PTH123  (a descriptor)
        for part in data:
            opened.write(part)
            size += len(part)
        opened.flush()
        os.fsync(opened.fileno())
    return size


def _parts(data: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the same bytes in parts of `_PART_BYTES`, the last one excepted."""
    held = bytearray()
    for piece in data:
        for start in range(0, len(piece), _PART_BYTES):
            held += piece[start : start + _PART_BYTES]
            while len(held) >= _PART_BYTES:
                yield bytes(held[:_PART_BYTES])
                del held[:_PART_BYTES]
    if held:
        yield bytes(held)
