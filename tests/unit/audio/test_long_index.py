"""MP4s of many hours: their index finds room, or the file is refused; it is never cut short in silence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.support.hostile_media import long_m4a
from whisper_server.services.audio.decoder_process.child import (
    MEMORY_BYTES,
    MOST_MEMORY_BYTES,
    memory_limit,
)
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio.mp4_guard import MAX_SAMPLES
from whisper_server.services.audio_processor import AudioProcessor

DAY_S = 24 * 3600


@pytest.fixture
def processes() -> Iterator[DecoderProcesses]:
    pool = DecoderProcesses(1)
    yield pool
    pool.close()


def first_seconds(processes: DecoderProcesses, data: bytes, max_seconds: float) -> tuple[float, int]:
    """Return the length that the header claims, and samples of the first block."""
    with AudioProcessor(1 << 30, max_seconds, processes.open).open(data) as stream:
        assert stream.info.header_duration_s is not None
        return stream.info.header_duration_s, len(next(stream.blocks()))


def test_the_limit_follows_the_longest_audio() -> None:
    assert memory_limit(4 * 3600) == MEMORY_BYTES
    assert MEMORY_BYTES < memory_limit(8 * 3600) < memory_limit(10 * 3600) < MOST_MEMORY_BYTES
    assert memory_limit(100 * 3600) == MOST_MEMORY_BYTES
    assert MAX_SAMPLES * 77 + (45 << 20) < MOST_MEMORY_BYTES


@pytest.mark.parametrize("hours", [6, 24])
def test_recordings_of_many_hours_find_room(processes: DecoderProcesses, hours: int) -> None:
    claimed_s, n_samples = first_seconds(processes, long_m4a(hours), 2 * DAY_S)
    assert claimed_s == pytest.approx(hours * 3600, abs=1)
    assert n_samples > 0


def test_one_that_is_too_long_is_read_up_to_the_limit(processes: DecoderProcesses) -> None:
    """That it is too long is what its client hears, not that it takes too much memory."""
    claimed_s, n_samples = first_seconds(processes, long_m4a(24), 4 * 3600)
    assert claimed_s > 4 * 3600
    assert n_samples > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the allocation fail")
def test_an_index_that_finds_no_room_beside_others_has_a_process_of_its_own(
    processes: DecoderProcesses,
) -> None:
    """Else libav leaves the end of the recording out, and says nothing."""
    part = long_m4a(4)
    processor = AudioProcessor(1 << 30, 4 * 3600, processes.open)
    with ExitStack() as stack:
        pids: set[int] = set()
        for _ in range(12):  # one process is for all, until there is no room
            stream = stack.enter_context(processor.open(part))
            assert len(next(stream.blocks())) > 0
            pids |= {child.pid for child in psutil.Process().children()}
            if len(pids) > 1:
                break
        assert len(pids) == 2
