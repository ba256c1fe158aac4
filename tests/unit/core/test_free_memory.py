"""What memory is left, by everything that bounds it; and errors that say that there was none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from whisper_server.core.system.memory import FreeMemory, check_room, is_want_of_memory

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make the files of a machine with 1000 MiB left, and no groups."""
    write(tmp_path / "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:  921600 kB\nSwapFree:  102400 kB\n")
    write(tmp_path / "proc/self/cgroup", "")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_group(
    folder: Path, limit: str, used: int, *, inactive: int = 0, active: int = 0, mapped: int = 0
) -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    stat = f"anon 5\nfile_mapped {mapped}\ninactive_file {inactive}\nactive_file {active}\n"
    write(folder / "memory.stat", stat)


def write_old_group(
    folder: Path, limit: int, used: int, *, inactive: int = 0, active: int = 0, mapped: int = 0
) -> None:
    """Write that of version 1, whose names without `total_` leave out the groups within."""
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used}\n")
    own = "mapped_file 1\ninactive_file 3\nactive_file 5\n"
    total = f"total_mapped_file {mapped}\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    write(folder / "memory.stat", own + total)


def test_the_machine(root: Path) -> None:
    assert FreeMemory(root)() == 1000 * MIB


def test_a_group_of_version_2(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/pod/box\n")
    write_group(root / "sys/fs/cgroup/pod/box", f"{500 * MIB}", 400 * MIB, inactive=50 * MIB)
    assert FreeMemory(root)() == 150 * MIB


def test_a_group_around_it_may_leave_less(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/pod/box\n")
    write_group(root / "sys/fs/cgroup/pod/box", "max", 400 * MIB)
    write_group(root / "sys/fs/cgroup/pod", f"{500 * MIB}", 420 * MIB)
    assert FreeMemory(root)() == 80 * MIB


def test_a_group_of_version_1(root: Path) -> None:
    write(root / "proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/1\n0::/\n")
    write_old_group(root / "sys/fs/cgroup/memory/docker/1", 500 * MIB, 400 * MIB, inactive=50 * MIB)
    assert FreeMemory(root)() == 150 * MIB


def test_in_a_container_its_group_is_the_mount(root: Path) -> None:
    """There the path is the host's."""
    write(root / "proc/self/cgroup", "4:memory:/docker/1\n")
    write_old_group(root / "sys/fs/cgroup/memory", 500 * MIB, 450 * MIB)
    assert FreeMemory(root)() == 50 * MIB


@pytest.mark.parametrize(("mapped_mb", "free_mb"), [(0, 150), (20, 130), (90, 100)])
def test_files_that_were_read_twice_are_no_less_free(root: Path, mapped_mb: int, free_mb: int) -> None:
    """A model that is checked and then loaded: its pages are active, and go where others are wanted."""
    files = {"active": 50 * MIB, "mapped": mapped_mb * MIB}
    write(root / "proc/self/cgroup", "0::/box\n")
    write_group(root / "sys/fs/cgroup/box", f"{500 * MIB}", 400 * MIB, **files)
    assert FreeMemory(root)() == free_mb * MIB
    write(root / "proc/self/cgroup", "4:memory:/box\n")
    write_old_group(root / "sys/fs/cgroup/memory/box", 500 * MIB, 400 * MIB, **files)
    assert FreeMemory(root)() == free_mb * MIB


def test_what_cannot_be_read_does_not_count(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/gone\n4:memory:/gone\n")
    assert FreeMemory(root)() == 1000 * MIB
    (root / "proc/meminfo").write_text("MemTotal: 9 kB\n")
    assert FreeMemory(root)() is None
    write(root / "proc/self/cgroup", "what is this")
    assert FreeMemory(root)() is None


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process(limit: str) -> None:
    program = (
        "import resource; from whisper_server.core.system.memory import FreeMemory\n"
        "free = FreeMemory()\n"
        f"resource.setrlimit(resource.{limit}, (2**30, resource.RLIM_INFINITY))\n"
        "before = free(); kept = bytes(100 * 2**20); print(before, before - free())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, taken = map(int, ended.stdout.split())
    assert 512 * MIB < before < 1024 * MIB
    assert abs(taken - 100 * MIB) < MIB


def test_this_machine_has_some() -> None:
    free = FreeMemory()()
    assert free is not None
    assert free > MIB


def test_room_is_had_or_not() -> None:
    check_room(64 * MIB)
    with pytest.raises(MemoryError):
        check_room(sys.maxsize // 2)


@pytest.mark.parametrize(
    ("error", "is_want"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA failed with error out of memory"), True),
        (RuntimeError("mkl_malloc: failed to allocate memory"), True),
        (RuntimeError("[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("bad value"), False),
    ],
)
def test_errors_that_say_so(error: Exception, is_want: bool) -> None:
    assert is_want_of_memory(error) == is_want
