"""Uploads as large as they may be that cost much, in decoder processes as the server has them.

What each costs is measured in the processor's time of all decoder processes, and in what they have in memory.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.audio_files import encode, tone
from tests.support.hostile_media import (
    PICTURED,
    changing_rate,
    deflated_blocks,
    id3_of,
    no_data_frames,
    one_sample_packets,
    png,
    repeated_chunk,
    script_tags,
    table_names,
)
from tests.support.peak_memory import ChildrensPeak
from whisper_server.core.errors import InvalidAudio
from whisper_server.services.audio.decoder_process.child import MEMORY_BYTES
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio_processor import AudioProcessor

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does"),
]

M4A = encode(tone(1.0), container="ipod", codec="aac")
FILES: dict[str, Callable[[], bytes]] = {
    "rates": lambda: changing_rate(5000),
    "rates and silence": lambda: changing_rate(20_000, rest_s=16.0),
    "one sample": lambda: one_sample_packets(2_000_000),
    "no data": lambda: no_data_frames(25 << 20),
    "deflated blocks": lambda: deflated_blocks(2500),
    "deflated titles": lambda: id3_of(1500),
    "script tags": lambda: script_tags(1_200_000),
    "chunks": lambda: repeated_chunk(3.0, 4800),
    "tables in free": lambda: M4A + table_names(24 << 20),
    "tables in moov": lambda: M4A + table_names(24 << 20).replace(b"free", b"moov", 1),
    **{f"pictures in {kind}": (lambda make=make: make(png(6000), 7)) for kind, make in PICTURED.items()},
}
MOST_CPU_S = 25.0  # a budget of 10 s and little sound; twice where a file is tried again


@pytest.mark.parametrize("kind", FILES)
def test_a_costly_file_costs_no_more_than_its_budget(kind: str) -> None:
    data = FILES[kind]()
    assert len(data) < 26 << 20
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    processes = DecoderProcesses(1)
    processor = AudioProcessor(26 << 20, 4 * 3600, processes.open)
    with ChildrensPeak() as peak:
        try:
            with processor.open(data) as stream:
                assert sum(len(block) for block in stream.blocks()) < 4 * 3600 * 16_000
        except InvalidAudio:
            pass
        expected = tone(2.0)
        with processor.open(encode(expected)) as stream:
            assert len(np.concatenate(list(stream.blocks()))) == len(expected)
    processes.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MOST_CPU_S
    assert peak.mb
    assert max(peak.mb.values()) < (MEMORY_BYTES + (64 << 20)) / 1e6  # what is no data is of libraries
