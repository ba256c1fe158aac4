"""Uploads in a folder and in a database: whole or not there, and gone when they should be."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from whisper_server.services.jobs.owners import Owners
from whisper_server.services.jobs.schema import open_database, sqlite_url
from whisper_server.services.jobs.uploads import DatabaseUploads, FolderUploads, Uploads

LONG = bytes(range(256)) * (40 << 10)  # 10 MiB: several parts


@pytest.fixture(params=["folder", "sqlite", "postgresql"])
def uploads(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Uploads]:
    if request.param == "folder":
        yield FolderUploads(tmp_path / "uploads")
        return
    is_embedded = request.param == "sqlite"
    url = sqlite_url(tmp_path / "jobs.sqlite3") if is_embedded else request.getfixturevalue("postgres_url")
    engine = open_database(url)
    yield DatabaseUploads(engine, tmp_path / "uploads")
    engine.dispose()


def read(uploads: Uploads, job_id: str) -> bytes:
    with uploads.lend(job_id) as file:
        return file.read_bytes()


def test_what_is_put_is_lent(uploads: Uploads, tmp_path: Path) -> None:
    assert uploads.put("job_a", [LONG[:5], LONG[5:], b""]) == len(LONG)
    assert uploads.put("job_b", [b"other"]) == 5
    assert (read(uploads, "job_a"), read(uploads, "job_b")) == (LONG, b"other")
    assert uploads.put("job_a", [b"shorter"]) == 7
    assert read(uploads, "job_a") == b"shorter"
    with uploads.lend("job_b") as file:
        if sys.platform != "win32":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for each in ("job_a", "job_b", "job_b"):
        uploads.remove(each)
        assert not uploads.has(each)
    with pytest.raises(FileNotFoundError), uploads.lend("job_a"):
        pass
    assert list((tmp_path / "uploads").iterdir()) == []


def test_what_breaks_off_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield LONG
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        uploads.put("job_a", broken())
    assert not uploads.has("job_a")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_what_a_killed_server_left_half_written_is_tidied_up(tmp_path: Path) -> None:
    uploads = FolderUploads(tmp_path)
    uploads.put("job_old", [b"a"])
    uploads.put("job_new", [b"a"])
    (tmp_path / ".job_x.1234").write_bytes(b"half")
    for name in ("job_old", ".job_x.1234"):
        os.utime(tmp_path / name, (1.0, 1.0))
    assert uploads.ids() == ["job_old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job_new", "job_old"]


def test_who_lives_and_who_does_not(tmp_path: Path) -> None:
    one, other = Owners(tmp_path), Owners(tmp_path)
    names = [one.name, other.name, "elsewhere-1"]
    assert one.dead(names) == other.dead(names) == []
    # A server that is killed gives its lock back, and its file stays.
    other._held.close()
    assert one.dead(names) == [other.name]
    one.tidy([other.name])
    assert one.dead(names) == [other.name]
    one.tidy([])
    assert one.dead(names) == []
    assert [path.stem for path in tmp_path.iterdir()] == [one.name]
    one.close()
    with suppress(FileNotFoundError):
        other.close()
    assert list(tmp_path.iterdir()) == []
