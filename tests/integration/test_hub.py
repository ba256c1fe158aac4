"""Downloads with the real huggingface_hub, from a stand-in for the hub on the loopback."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock

from tests.support.stand_in_hub import (
    BLOCK_BYTES,
    COMMIT,
    NEEDED,
    ROOT,
    SOURCE,
    Hub,
)
from whisper_server.core.errors import ModelUnavailable, ShuttingDown
from whisper_server.core.types import ModelSource
from whisper_server.services.model_files.hub import lock, transfer
from whisper_server.services.model_files.hub.cache import marker_of
from whisper_server.services.model_files.hub.fetch import download_repository
from whisper_server.services.model_files.hub.files import choose

WEIGHTS = "model.safetensors"


def sum_of_side_files(stand_in: Hub) -> int:
    return sum(len(stand_in.files[name]) for name in NEEDED - {WEIGHTS})


def nothing_looks_whole(cache: Path) -> bool:
    return not list(cache.glob("hub/*/*.json"))


def forbid_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_first_use_downloads_what_is_needed(
    stand_in: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "whisper_server")
    progress: list[tuple[int, int]] = []
    folder = download_repository(
        SOURCE, tmp_path, on_progress=lambda done, total: progress.append((done, total))
    )
    assert {path.name for path in folder.iterdir() if path.is_file()} == NEEDED
    for name in NEEDED:
        assert (folder / name).read_bytes() == stand_in.files[name]
    assert sorted(stand_in.downloaded()) == sorted(NEEDED)
    total = sum(len(stand_in.files[name]) for name in NEEDED)
    assert progress[-1] == (total, total)
    assert progress == sorted(progress)
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == "whisper_server.services.model_files.hub"
    ]
    assert lines[0] == f"downloading someone/nano: 6 files, {total / 1e6:.1f} MB"
    assert "downloading someone/nano: 100 %" in lines
    assert lines[-1].startswith("downloaded someone/nano in ")
    assert capfd.readouterr().err == ""


def test_second_use_opens_no_socket(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = download_repository(SOURCE, tmp_path)
    asked = len(stand_in.seen)
    forbid_sockets(monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download_repository(SOURCE, tmp_path) == folder
    assert download_repository(SOURCE, tmp_path, offline=True) == folder
    assert len(stand_in.seen) == asked


def test_lost_file_is_noticed_and_only_that_is_downloaded_again(stand_in: Hub, tmp_path: Path) -> None:
    folder = download_repository(SOURCE, tmp_path)
    (folder / "config.json").unlink()
    stand_in.seen.clear()
    with pytest.raises(ModelUnavailable, match="WHISPER_OFFLINE"):
        download_repository(SOURCE, tmp_path, offline=True)
    assert download_repository(SOURCE, tmp_path) == folder
    assert stand_in.downloaded() == ["config.json"]


def test_revision_is_asked_for_and_kept_apart(stand_in: Hub, tmp_path: Path) -> None:
    source = ModelSource("nano", repo="someone/nano", revision="refs/pr/1")
    download_repository(source, tmp_path)
    assert [path.name for path in tmp_path.glob("hub/*/*.json")] == ["refs%2Fpr%2F1.json"]
    with pytest.raises(ModelUnavailable):
        download_repository(SOURCE, tmp_path, offline=True)


def test_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_sockets(monkeypatch)
    with pytest.raises(ModelUnavailable, match=r"'nano'.*WHISPER_OFFLINE"):
        download_repository(SOURCE, tmp_path, offline=True)


def test_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(ModelUnavailable, match=r"'nano'.*does not answer.*HF_ENDPOINT") as caught:
        download_repository(SOURCE, tmp_path)
    assert "secret" not in caught.value.message
    assert nothing_looks_whole(tmp_path)


def test_hanging_hub(silent_port: None, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"'nano'.*does not answer.*Timeout"):
        download_repository(SOURCE, tmp_path, timeout_s=0.05)
    assert nothing_looks_whole(tmp_path)


def test_download_that_breaks_off_goes_on_by_itself(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.break_after = 1_000_000
    folder = download_repository(SOURCE, tmp_path)
    assert (folder / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]
    assert stand_in.ranges == ["bytes=1000000-"]


def test_a_later_attempt_goes_on_where_an_earlier_one_ended(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.break_after = 1_000_000
    stand_in.refuse_files_after_break = True
    with pytest.raises(ModelUnavailable, match="'nano'"):
        download_repository(SOURCE, tmp_path)
    assert nothing_looks_whole(tmp_path)
    assert not list(tmp_path.glob("hub/*/*/model.safetensors"))
    with pytest.raises(ModelUnavailable):
        download_repository(SOURCE, tmp_path, offline=True)
    stand_in.refuse = None
    stand_in.seen.clear()
    stand_in.ranges.clear()
    progress: list[int] = []
    folder = download_repository(SOURCE, tmp_path, on_progress=lambda done, _: progress.append(done))
    assert (folder / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]
    assert stand_in.ranges == ["bytes=1000000-"]
    assert "config.json" not in stand_in.downloaded()  # what was whole is not downloaded again
    assert all(done > 1_000_000 for done in progress if done > sum_of_side_files(stand_in))
    assert not list(folder.glob("*.part"))


def test_hub_without_ranges_starts_over(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.break_after = 1_000_000
    stand_in.knows_ranges = False
    folder = download_repository(SOURCE, tmp_path)
    assert (folder / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]


def test_part_that_is_too_long_or_whole(stand_in: Hub, tmp_path: Path) -> None:
    folder = download_repository(SOURCE, tmp_path)
    whole = stand_in.files[WEIGHTS]
    for content, downloaded in ((whole + b"x", [WEIGHTS]), (whole, [])):
        (folder / WEIGHTS).unlink()
        transfer.part_of(folder / WEIGHTS).write_bytes(content)
        stand_in.seen.clear()
        assert download_repository(SOURCE, tmp_path) == folder
        assert (folder / WEIGHTS).read_bytes() == whole
        assert stand_in.downloaded() == downloaded


def test_part_with_wrong_bytes_is_thrown_away(stand_in: Hub, tmp_path: Path) -> None:
    folder = download_repository(SOURCE, tmp_path)
    (folder / WEIGHTS).unlink()
    transfer.part_of(folder / WEIGHTS).write_bytes(b"x" * 1000)
    with pytest.raises(ModelUnavailable, match="damaged"):
        download_repository(SOURCE, tmp_path)
    assert download_repository(SOURCE, tmp_path) == folder
    assert (folder / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]


@pytest.mark.parametrize(("blocks", "stall_s"), [(0, 0.05), (3, 0.5)])
def test_hub_that_hangs_after_the_listing(stand_in: Hub, tmp_path: Path, blocks: int, stall_s: float) -> None:
    stand_in.gate = threading.Semaphore(blocks)
    with pytest.raises(ModelUnavailable, match=r"'nano'.*does not answer.*Timeout"):
        download_repository(SOURCE, tmp_path, stall_s=stall_s)
    assert nothing_looks_whole(tmp_path)
    # On a busy machine the client may have given up before it had all that was sent.
    arrived = sum(part.stat().st_size for part in tmp_path.rglob(transfer.part_of(Path(WEIGHTS)).name))
    assert arrived <= blocks * BLOCK_BYTES
    stand_in.gate.release(1000)
    download_repository(SOURCE, tmp_path)
    assert stand_in.ranges == ([f"bytes={arrived}-"] if arrived else [])


def test_hub_that_trickles_counts_as_hanging(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SLOW_S", 0.0)  # every chunk is a window
    monkeypatch.setattr(transfer, "SLOW_BYTES", 10**9)
    with pytest.raises(ModelUnavailable, match=r"does not answer.*TimeoutError"):
        download_repository(SOURCE, tmp_path)


def test_slow_hub_is_waited_for(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.gate = threading.Semaphore(0)
    progress: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(
            download_repository, SOURCE, tmp_path, on_progress=lambda done, _: progress.append(done)
        )
        while not coming.done():  # one block at a time
            stand_in.gate.release()
            stand_in.sent.acquire(timeout=0.1)
    assert (coming.result() / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]
    # Told of as it arrives, and not when a file is whole.
    assert len(set(progress)) > len(stand_in.files[WEIGHTS]) // BLOCK_BYTES


DOWNLOAD = (
    "import sys; from pathlib import Path;"
    "from whisper_server.services.model_files.hub.fetch import download_repository;"
    "from whisper_server.core.types import ModelSource;"
    "print(download_repository(ModelSource('nano', repo='someone/nano'), Path(sys.argv[1])))"
)


def start_download(tmp_path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DOWNLOAD, str(tmp_path)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True)


def test_process_that_is_killed_is_gone_on_from(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.gate = threading.Semaphore(5)
    with start_download(tmp_path) as process:
        for _ in range(5):
            assert stand_in.sent.acquire(timeout=60)
        # What was sent may still be on its way: into the process, and from there to the disk.
        while not any(part.stat().st_size >= BLOCK_BYTES for part in tmp_path.glob("hub/*/*/*.part")):
            assert process.poll() is None
            threading.Event().wait(0.001)
        process.send_signal(signal.SIGKILL)
    assert nothing_looks_whole(tmp_path)
    stand_in.gate.release(1000)
    folder = download_repository(SOURCE, tmp_path)  # nor does its lock stay
    assert (folder / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]
    assert len(stand_in.ranges) == 1


def test_two_processes_at_once_are_one_download(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.gate = threading.Semaphore(1)
    with start_download(tmp_path) as first, start_download(tmp_path) as second:
        assert stand_in.sent.acquire(timeout=60)  # one of them has begun
        stand_in.gate.release(1000)
        outputs = {process.communicate(timeout=120)[0] for process in (first, second)}
        assert (first.returncode, second.returncode) == (0, 0)
    assert len(outputs) == 1
    assert sorted(stand_in.downloaded()) == sorted(NEEDED)


def test_another_process_is_waited_for_as_long_as_it_gets_further(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = marker_of(SOURCE, tmp_path).parent
    part = home / COMMIT / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    monkeypatch.setattr(lock, "POLL_S", 0.01)
    look, looks = lock.trace_of, []
    with ExitStack() as other:
        other.enter_context(WeakFileLock(home / ".lock"))

        def after_some_bytes(where: Path) -> dict[str, int]:
            looks.append(where)
            part.write_bytes(b"x" * len(looks))
            if len(looks) == 5:
                part.unlink()  # the other one has ended, or died
                other.close()
            return look(where)

        monkeypatch.setattr(lock, "trace_of", after_some_bytes)
        folder = download_repository(
            SOURCE, tmp_path, hangs_s=0.0
        )  # no look may find what the one before it found
    assert looks == [home] * 5
    assert (folder / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]


def test_another_process_that_hangs_is_not_waited_for_for_ever(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "POLL_S", 0.01)
    stand_in.gate = threading.Semaphore(5)
    with start_download(tmp_path) as process:
        for _ in range(5):
            assert stand_in.sent.acquire(timeout=60)
        process.send_signal(signal.SIGSTOP)  # it lives, and holds the lock
        with pytest.raises(
            ModelUnavailable, match=r"'nano'.*another process.*no further.*end that"
        ) as caught:
            download_repository(SOURCE, tmp_path, hangs_s=0.05)
        assert (caught.value.status, caught.value.retry_helps) == (503, True)
        process.kill()
    stand_in.gate.release(1000)
    assert (download_repository(SOURCE, tmp_path) / WEIGHTS).read_bytes() == stand_in.files[WEIGHTS]


def test_damaged_file_is_thrown_away(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.damage = True
    with pytest.raises(ModelUnavailable, match="damaged"):
        download_repository(SOURCE, tmp_path)
    assert nothing_looks_whole(tmp_path)
    assert not list(tmp_path.glob("hub/*/*/model.safetensors"))
    stand_in.damage = False
    folder = download_repository(SOURCE, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == stand_in.files["model.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "does not exist or is private"),
        (401, "RepoNotFound", "does not exist or is private"),
        (403, "GatedRepo", "gated.*HF_TOKEN"),
        (404, "RevisionNotFound", "no revision"),
        (500, "", "does not answer properly"),
        (503, "", "does not answer properly"),
    ],
)
def test_refusals_say_what_to_do(stand_in: Hub, tmp_path: Path, status: int, code: str, words: str) -> None:
    stand_in.refuse, stand_in.error_code = status, code
    with pytest.raises(ModelUnavailable, match=f"'nano'.*{words}") as caught:
        download_repository(SOURCE, tmp_path)
    assert caught.value.status == 503
    assert "\n" not in caught.value.message


def test_hub_that_talks_nonsense(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.refuse = 200
    with pytest.raises(ModelUnavailable):
        download_repository(SOURCE, tmp_path)


def test_repository_with_pickles_only(stand_in: Hub, tmp_path: Path) -> None:
    del stand_in.files["model.safetensors"]
    with pytest.raises(ModelUnavailable, match="pickled ones are never loaded"):
        download_repository(SOURCE, tmp_path)
    assert stand_in.downloaded() == []


def test_cache_that_cannot_be_written(stand_in: Hub, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ModelUnavailable, match="WHISPER_CACHE_DIR cannot be written"):
        download_repository(SOURCE, blocked)


def test_disk_without_room(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = stand_in.listing()
    listing["siblings"][list(stand_in.files).index("model.safetensors")]["size"] = 1 << 60
    monkeypatch.setattr(stand_in, "listing", lambda: listing)
    with pytest.raises(ModelUnavailable, match="MB in WHISPER_CACHE_DIR"):
        download_repository(SOURCE, tmp_path)
    assert stand_in.downloaded() == []


def test_progress_may_end_the_download(stand_in: Hub, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise ShuttingDown("The server is shutting down.")

    with pytest.raises(ShuttingDown):
        download_repository(SOURCE, tmp_path, on_progress=stop)
    assert nothing_looks_whole(tmp_path)


def test_two_at_once(stand_in: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: download_repository(SOURCE, tmp_path), range(2))
    assert first == second
    assert (first / "model.safetensors").read_bytes() == stand_in.files["model.safetensors"]


def test_commit_that_is_a_path_is_refused(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in, "listing", lambda: {"id": "x", "sha": "../../../out", "siblings": []})
    with pytest.raises(ModelUnavailable, match="no commit"):
        download_repository(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (  # openai/whisper-large-v3
            "config.json flax_model.msgpack model.fp32-00001-of-00002.safetensors"
            " model.fp32-00002-of-00002.safetensors model.safetensors model.safetensors.index.fp32.json"
            " pytorch_model.bin pytorch_model.fp32-00001-of-00002.bin",
            "config.json model.safetensors",
        ),
        (
            "config.json model.safetensors.index.json model-00001-of-00002.safetensors"
            " model-00002-of-00002.safetensors model.fp16-00001-of-00002.safetensors",
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors"
            " model.safetensors.index.json",
        ),
        (  # in CTranslate2 format
            "config.json model.bin tokenizer.json vocabulary.txt README.md",
            "config.json model.bin tokenizer.json vocabulary.txt",
        ),
        ("config.json model.bin tokenizer.json", ""),
        ("config.json pytorch_model.bin", ""),
        ("model.safetensors", ""),
        ("config.json model.safetensors ../config.json sub/tokenizer.json", "config.json model.safetensors"),
    ],
)
def test_choice_of_files(names: str, chosen: str) -> None:
    assert choose(names.split()) == chosen.split()
