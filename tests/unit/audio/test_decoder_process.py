"""Decoder processes: the same samples as without them, and the death of one harms no other file."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.audio_files import NOT_MEDIA, encode, tone, video, wav_bytes
from tests.support.crashing_decoder import decoders_that
from tests.support.hostile_media import script_tags
from whisper_server.core.errors import AudioTooLong, InvalidAudio, ShuttingDown, Unavailable
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.decoder import LibavDecoder
from whisper_server.services.audio.decoder_process import handle, pool, watch
from whisper_server.services.audio.decoder_process.child import READ_BYTES
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio.decoder_process.remote import CRASHED, HANGS, PUT_OFF
from whisper_server.services.audio_processor import AudioProcessor, AudioSource

MAX_SECONDS = 600
LOCAL = AudioProcessor(32 << 20, MAX_SECONDS)
NOISE = np.random.default_rng(3).standard_normal(160 * 8_000).astype(np.float32) / 5
LONG = encode(NOISE, 8_000, codec="pcm_u8")  # more than is held at once, and read while it is decoded
DEATHS = [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT] if sys.platform != "win32" else [signal.SIGTERM]


@pytest.fixture
def decoders() -> Iterator[DecoderProcesses]:
    """At most one shared process, so that all decoders are in it."""
    processes = DecoderProcesses(1)
    yield processes
    pids = processes.pids()
    processes.close()
    assert all(not psutil.pid_exists(pid) for pid in pids)


@pytest.fixture
def remote(decoders: DecoderProcesses) -> AudioProcessor:
    return AudioProcessor(32 << 20, MAX_SECONDS, decoders.open)


def samples_of(processor: AudioProcessor, data: AudioSource, channel: int | None = None) -> np.ndarray:
    with processor.open(data, channel) as stream:
        return np.concatenate(list(stream.blocks()))


class Poison(io.BytesIO):
    """A file that kills its decoder at the next read, as often as it has been told to."""

    def __init__(self, data: bytes, decoders: DecoderProcesses, number: int, times: int) -> None:
        super().__init__(data)
        self._decoders = decoders
        self._number = number
        self.times = times

    def read(self, size: int | None = -1) -> bytes:
        if self.times and (pids := self._decoders.pids()):
            self.times -= 1
            os.kill(pids[-1], self._number)
        return super().read(size)


class SlowFile(io.BytesIO):
    """A file whose first read from its decoder process lasts until it is told to go on."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.is_read = threading.Event()
        self.may_go_on = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        if size and size >= READ_BYTES:
            self.is_read.set()
            self.may_go_on.wait()
        return super().read(size)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("wav", "pcm_s16le"), ("ipod", "aac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("webm", "libopus")],
)
def test_samples_and_header_are_the_same(remote: AudioProcessor, container: str, codec: str) -> None:
    data = encode(NOISE[: 20 * 16_000], container=container, codec=codec, channels=2)
    with remote.open(data) as there, LOCAL.open(data) as here:
        assert there.info == here.info
        for found, expected in zip(there.blocks(), here.blocks(), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert there.levels() == here.levels()
    np.testing.assert_array_equal(samples_of(remote, data, 1), samples_of(LOCAL, data, 1))
    with remote.open(data) as there, LOCAL.open(data) as here:
        for found, expected in zip(there.planes(), here.planes(), strict=True):
            np.testing.assert_array_equal(found, expected)


BAD = {
    **NOT_MEDIA,
    "nothing": b"",
    "too short": wav_bytes(bytes(100)),
    "forged": wav_bytes(bytes(64_000), rate=1),
    "film": video(),
    "cut": encode(tone(3.0), container="ipod", codec="aac")[:9000],
}


@pytest.mark.long
@pytest.mark.parametrize("kind", list(BAD))
def test_errors_are_the_same(remote: AudioProcessor, kind: str) -> None:
    with pytest.raises(InvalidAudio) as expected:
        samples_of(LOCAL, BAD[kind])
    with pytest.raises(InvalidAudio) as found:
        samples_of(remote, BAD[kind])
    assert (type(found.value), found.value.message) == (type(expected.value), expected.value.message)


def test_the_limit_on_the_length_holds(decoders: DecoderProcesses) -> None:
    with pytest.raises(AudioTooLong, match=r"5 seconds.*MAX_AUDIO_SECONDS"):
        samples_of(AudioProcessor(32 << 20, 5, decoders.open), LONG)


def test_a_file_that_cannot_seek_is_decoded_here(decoders: DecoderProcesses) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    data = encode(tone(1.0))
    with closing(decoders.open(BoundedFile(Pipe(data), 32 << 20, is_ours=True), 60)) as decoder:
        assert isinstance(decoder, LibavDecoder)
    with AudioProcessor(32 << 20, 60, decoders.open).open(Pipe(data)) as stream:
        assert len(np.concatenate(list(stream.blocks()))) == 16_000
    assert decoders.pids() == []


# Death.


@pytest.mark.parametrize("number", DEATHS)
def test_a_file_that_crashes_its_decoder_twice_is_refused(
    remote: AudioProcessor, decoders: DecoderProcesses, number: int
) -> None:
    with pytest.raises(InvalidAudio) as caught:
        remote.open(Poison(LONG, decoders, number, times=100))
    assert (caught.value.status, caught.value.param, caught.value.message) == (400, "file", CRASHED)
    np.testing.assert_array_equal(samples_of(remote, LONG), samples_of(LOCAL, LONG))


@pytest.mark.parametrize("number", DEATHS)
def test_a_crash_in_the_middle_harms_no_other_file(
    remote: AudioProcessor, decoders: DecoderProcesses, number: int
) -> None:
    expected = samples_of(LOCAL, LONG)
    with ExitStack() as stack:
        neighbours = [stack.enter_context(remote.open(LONG)) for _ in range(3)]
        begun = [stream.blocks() for stream in neighbours[:2]]
        heads = [next(blocks) for blocks in begun]  # the third one has not begun
        poison = Poison(LONG, decoders, number, times=0)
        bad = stack.enter_context(remote.open(poison))
        first = decoders.pids()
        assert len(first) == 1
        poison.times = 100
        with pytest.raises(InvalidAudio, match="crash"):
            list(bad.blocks())
        begun.append(neighbours[2].blocks())
        heads.append(np.zeros(0, np.float32))
        for head, blocks in zip(heads, begun, strict=True):
            np.testing.assert_array_equal(np.concatenate([head, *blocks]), expected)
        assert len(decoders.pids()) == 1
        assert decoders.pids() != first


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell who ended a process")
def test_a_process_that_is_killed_from_outside_is_no_fault_of_the_file(
    remote: AudioProcessor, decoders: DecoderProcesses
) -> None:
    """As the kernel does it where memory runs out."""
    with pytest.raises(Unavailable, match="ended from outside") as caught:
        remote.open(Poison(LONG, decoders, signal.SIGKILL, times=100))
    assert (caught.value.status, caught.value.retry_helps) == (503, True)
    np.testing.assert_array_equal(samples_of(remote, LONG), samples_of(LOCAL, LONG))


def test_a_process_that_was_killed_once_is_no_reason_to_refuse_a_file(
    remote: AudioProcessor, decoders: DecoderProcesses
) -> None:
    with remote.open(Poison(LONG, decoders, signal.SIGKILL, times=1)) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), samples_of(LOCAL, LONG))
        assert len(decoders.pids()) == 1  # the one of its own
    assert decoders.pids() == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to ignore")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_group_are_for_the_server(
    remote: AudioProcessor, decoders: DecoderProcesses, number: int
) -> None:
    with remote.open(LONG) as stream:
        pids = decoders.pids()
        os.kill(pids[0], number)
        assert len(np.concatenate(list(stream.blocks()))) == len(samples_of(LOCAL, LONG))
        assert decoders.pids() == pids


def test_a_hang_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoders_that("hang", monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        with pytest.raises(InvalidAudio, match="hang"):
            samples_of(remote, encode(tone(1.0), container="caf"))
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000


def lines_of_decoders(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What decoder processes wrote to their standard error; all of it, once they have ended."""
    for thread in threading.enumerate():
        if thread.name == "decoder-stderr":
            thread.join()
    return [line.partition(": ")[2] for line in caplog.messages if line.startswith("decoder process ")]


def test_where_it_hung_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with decoders_that("hang", monkeypatch) as processes, pytest.raises(InvalidAudio, match="hang"):
        samples_of(AudioProcessor(1 << 20, 60, processes.open), encode(tone(1.0), container="caf"))
    lines = lines_of_decoders(caplog)
    assert lines[0].startswith("Timeout (")
    assert any(" in wait" in line for line in lines)


def test_what_a_decoder_prints_has_a_reader(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where ours has none: a decoder would wait in its write, and we for the decoder."""
    with decoders_that("talk", monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        assert len(samples_of(remote, encode(tone(1.0), container="caf"))) == 16_000
    lines = lines_of_decoders(caplog)
    assert lines[-1] == "\ufffd end"
    assert sum(map(len, lines[:-1])) == 500 * 1999


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process may allocate")
def test_a_file_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoders_that("eat", monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000
        pids = processes.pids()
        with pytest.raises(InvalidAudio, match="memory"):
            samples_of(remote, encode(tone(1.0), container="caf"))
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000
        assert processes.pids() == pids


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process may allocate")
@pytest.mark.parametrize("fault", ["starve", "lack"])
def test_a_process_without_any_memory_left_still_says_so(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with decoders_that(fault, monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        with pytest.raises(InvalidAudio, match="memory"):
            samples_of(remote, encode(tone(1.0), container="caf"))
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000
    if fault == "lack":  # with nothing left, another thread of the process may say so as well
        assert lines_of_decoders(caplog) == []


def test_a_bug_while_a_file_is_opened_keeps_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was set aside for the file would be missed by the next files that need their own."""
    with decoders_that("err", monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000
        for _ in range(pool.MIN_ASIDE + 1):
            with pytest.raises(RuntimeError, match="a bug"):
                remote.open(encode(tone(1.0), container="caf"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has in memory")
def test_memory_that_a_file_took_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoders_that("grow", monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000
        (pid,) = processes.pids()
        with remote.open(encode(tone(1.0), container="caf")) as stream:
            assert len(np.concatenate(list(stream.blocks()))) == 16_000
            assert processes.pids() == [pid]
        assert processes.pids() == []
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
        assert not psutil.pid_exists(pid)


def test_a_process_ends_after_many_files(
    remote: AudioProcessor, decoders: DecoderProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_OPENED", 3)
    seen = set()
    for _ in range(5):
        with remote.open(encode(tone(1.0))):
            seen.update(decoders.pids())
    assert len(seen) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux ends first where memory runs out")
def test_the_system_ends_decoders_before_the_server(
    remote: AudioProcessor, decoders: DecoderProcesses
) -> None:
    with remote.open(LONG):
        (pid,) = decoders.pids()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


# Stopped, slow and lost.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a process is stopped")
def test_a_decoder_that_was_stopped_is_replaced(remote: AudioProcessor, decoders: DecoderProcesses) -> None:
    expected = samples_of(LOCAL, LONG)
    with remote.open(LONG) as stream, remote.open(LONG) as neighbour:
        blocks = stream.blocks()
        first = next(blocks)
        (pid,) = decoders.pids()
        os.kill(pid, signal.SIGSTOP)
        np.testing.assert_array_equal(samples_of(remote, LONG), expected)  # a new file, by a new process
        np.testing.assert_array_equal(np.concatenate([first, *blocks]), expected)
        np.testing.assert_array_equal(np.concatenate(list(neighbour.blocks())), expected)
        assert pid not in decoders.pids()
    assert decoders.is_answering


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a process is stopped")
def test_a_decoder_that_is_stopped_at_work_is_replaced(
    remote: AudioProcessor, decoders: DecoderProcesses
) -> None:
    poison = Poison(LONG, decoders, signal.SIGSTOP, times=0)
    with remote.open(poison) as stream:
        poison.times = 1
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), samples_of(LOCAL, LONG))


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not limit a process's time")
def test_a_call_that_spins_is_ended_by_its_own_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with decoders_that("spin", monkeypatch) as processes:
        remote = AudioProcessor(1 << 20, 60, processes.open)
        with pytest.raises(InvalidAudio, match=HANGS):
            samples_of(remote, encode(tone(1.0), container="caf"))
        assert len(samples_of(remote, encode(tone(1.0)))) == 16_000
    assert any("crashing" in line or "File" in line for line in lines_of_decoders(caplog))


@pytest.mark.long
def test_what_takes_long_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process for all: two files stay in it for ever, and a third one finds no room to do so."""
    monkeypatch.setattr(watch, "IDLE_SLOW_S", 1.0)
    slow = encode(tone(1.0), container="caf")
    with decoders_that("stay", monkeypatch) as processes, ThreadPoolExecutor(3) as executor:
        remote = AudioProcessor(32 << 20, 600, processes.open)
        with remote.open(LONG) as begun:
            blocks = begun.blocks()
            first = next(blocks)
            stuck = [executor.submit(samples_of, remote, slow) for _ in range(3)]
            np.testing.assert_array_equal(samples_of(remote, LONG), samples_of(LOCAL, LONG))
            np.testing.assert_array_equal(np.concatenate([first, *blocks]), samples_of(LOCAL, LONG))
        refused = next(as_completed(stuck))
        with pytest.raises(Unavailable, match=PUT_OFF):
            refused.result()
        np.testing.assert_array_equal(samples_of(remote, LONG), samples_of(LOCAL, LONG))
        processes.close()
        for each in stuck:
            assert isinstance(each.exception(), ShuttingDown | Unavailable)


def test_a_process_that_never_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    command = handle.child_command()
    monkeypatch.setattr(watch, "START_LIMIT_S", 0.2)
    monkeypatch.setattr(
        handle, "child_command", lambda: [sys.executable, "-c", "import time; time.sleep(600)"]
    )
    processes = DecoderProcesses(1)
    remote = AudioProcessor(32 << 20, MAX_SECONDS, processes.open)
    assert processes.is_answering
    with pytest.raises(Unavailable, match="cannot be started"):
        remote.open(LONG)
    assert not processes.is_answering
    with pytest.raises(Unavailable, match="cannot be started"):
        processes.check()
    monkeypatch.setattr(watch, "START_LIMIT_S", 60.0)
    monkeypatch.setattr(handle, "child_command", lambda: command)
    processes.check()
    assert processes.is_answering
    processes.close()


def test_the_process_imports_neither_numpy_nor_pydantic() -> None:
    """It starts while a request waits, and has no use for them."""
    command = [
        part.replace("main()", "print(*sys.modules)") if part == handle.CHILD_PROGRAM else part
        for part in handle.child_command()
    ]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "whisper_server.services.audio.decoder_process.child" in loaded
    assert not {"numpy", "pydantic"} & set(loaded)


# Ends.


def test_nothing_is_imported_in_the_middle_of_a_file() -> None:
    """Here of one with a subtitle track: where it has taken all memory, an import fails."""
    program = (
        "import io, sys; from whisper_server.services.audio.bounded_file import BoundedFile;"
        "from whisper_server.services.audio.decoder import LibavDecoder;"
        "from whisper_server.services.audio.decoder_process.child import load_libav; load_libav();"
        "data = sys.stdin.buffer.read(); before = set(sys.modules);"
        "decoder = LibavDecoder(BoundedFile(io.BytesIO(data), len(data), is_ours=True), 600);"
        "assert decoder._container.streams.subtitles; list(decoder.pieces('mix'));"
        "print(sorted(set(sys.modules) - before))"
    )
    data = script_tags(1000)
    done = subprocess.run([sys.executable, "-c", program], input=data, stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == b"[]"


def test_closing_ends_the_processes_and_what_they_do(
    remote: AudioProcessor, decoders: DecoderProcesses
) -> None:
    assert decoders.pids() == []  # nothing is begun before it is needed
    decoder = decoders.open(BoundedFile(io.BytesIO(LONG), len(LONG), is_ours=True), MAX_SECONDS)
    pieces = decoder.pieces("mix")
    next(pieces)
    (pid,) = decoders.pids()
    decoders.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(ShuttingDown):
        list(pieces)
    with pytest.raises(ShuttingDown):
        remote.open(LONG)
    decoder.close()
    decoders.close()


def test_a_forgotten_decoder_is_closed(remote: AudioProcessor, decoders: DecoderProcesses) -> None:
    stream = remote.open(LONG)
    next(stream.blocks())
    process = decoders.shared()
    assert process.n_decoders == 1
    del stream
    gc.collect()
    assert process.n_decoders == 0
    assert process.unsent_closes == 0


def test_a_process_more_only_where_one_is_busy() -> None:
    processes = DecoderProcesses(2)
    remote = AudioProcessor(32 << 20, MAX_SECONDS, processes.open)
    for _ in range(3):
        samples_of(remote, LONG)
    assert len(processes.pids()) == 1
    slow = SlowFile(LONG)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(samples_of, remote, slow)
        slow.is_read.wait()
        samples_of(remote, LONG)
        slow.may_go_on.set()
        waiting.result()
    assert len(processes.pids()) == 2
    processes.close()


@pytest.mark.parametrize("command", [["/nowhere/python"], [sys.executable, "-c", "pass"]])
def test_a_process_that_cannot_be_started_is_a_503_that_names_the_setting(
    remote: AudioProcessor, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(handle, "child_command", lambda: command)
    with pytest.raises(Unavailable, match="WHISPER_DECODER_PROCESSES") as caught:
        remote.open(LONG)
    assert caught.value.status == 503


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_process_ends_with_its_server_however_that_ends(is_busy: bool) -> None:
    begin = "next(iter(p.pieces('mix')))" if is_busy else ""
    server = f"""
import os, sys
from tests.support.audio_files import encode, tone
from whisper_server.services.audio.decoder_process.child import READ_BYTES
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio.bounded_file import BoundedFile
import io
d = DecoderProcesses(1)
p = d.open(BoundedFile(io.BytesIO(encode(tone(5.0))), 1 << 20, is_ours=True), 60.0)
{begin}
print(d.pids()[0], flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        assert psutil.wait_procs([child], timeout=60)[1] == []
