"""Files that would take far more work or memory than their sound is worth: small ones of each kind.

Larger ones are in tests/attack.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from functools import partial
from io import BytesIO

import pytest

from tests.support.audio_files import encode, tone
from tests.support.growth import check_linear
from tests.support.hostile_media import (
    PICTURED,
    changing_format,
    changing_rate,
    no_data_frames,
    one_sample_packets,
    png,
    repeated_chunk,
    table_names,
    without_length,
)
from tests.support.peak_memory import bounded_growth
from whisper_server.core.errors import InvalidAudio
from whisper_server.services.audio import budget, mp4_guard
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.budget import Spent
from whisper_server.services.audio.demuxer import audio_codecs
from whisper_server.services.audio_processor import AudioProcessor

PROCESSOR = AudioProcessor(64 << 20, 4 * 3600)
COSTLY: dict[str, Callable[[], bytes]] = {
    "a rate for every frame": lambda: changing_rate(300),
    "a layout for every frame": lambda: changing_format(3000),
    "packets of nothing": lambda: no_data_frames(60_000),
    "one chunk again and again": lambda: repeated_chunk(3.0, 200),
}


def spent_on(data: bytes) -> Spent:
    """Return what was spent until the file was refused."""
    with PROCESSOR.open(data) as stream:
        with pytest.raises(InvalidAudio, match="far more work"):
            for _ in stream.blocks():
                pass
        return stream.budget.besides(Spent())


@pytest.mark.parametrize("kind", COSTLY)
def test_what_costs_more_than_it_is_worth_is_refused(kind: str) -> None:
    spent = spent_on(COSTLY[kind]())
    assert spent.graphs <= budget.BASE_GRAPHS + 5
    assert spent.empty_packets <= budget.BASE_EMPTY_PACKETS + 1


def test_packets_of_one_sample_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte each, as long as the filter graph has them."""
    data = one_sample_packets(40_000)
    with bounded_growth(15), PROCESSOR.open(data) as stream:
        assert sum(len(block) for block in stream.blocks()) == 80_000
    for constant in ("BASE_CPU_S", "CPU_PER_SOUND", "CPU_S_PER_BYTE"):
        monkeypatch.setattr(budget, constant, 0.0)
    spent_on(data)


@pytest.mark.parametrize("kind", PICTURED)
def test_pictures_are_never_decoded(kind: str) -> None:
    """They would take 27 MB each."""
    data = PICTURED[kind](png(3000), 4)
    with bounded_growth(25), PROCESSOR.open(data) as stream:
        assert stream.info.codec
        assert sum(len(block) for block in stream.blocks()) >= 15_000


def test_only_decoders_of_sound_are_in_reach() -> None:
    codecs = audio_codecs().split(",")
    assert {"aac", "flac", "opus", "pcm_s16le", "mp3float", "vorbis", "wavpack", "alac"} <= set(codecs)
    assert not {"png", "mjpeg", "h264", "hevc", "gif", "ass", "srt", "tiff"} & set(codecs)


def test_the_same_stretch_twice_is_no_attack() -> None:
    with PROCESSOR.open(repeated_chunk(3.0, 2)) as stream:
        assert sum(len(block) for block in stream.blocks()) == pytest.approx(6 * 16_000, abs=100)


def test_a_length_that_no_header_tells() -> None:
    data = without_length(encode(tone(2.0), container="flac", codec="flac"))
    with PROCESSOR.open(data) as stream:
        assert stream.info.header_duration_s is None
        assert sum(len(block) for block in stream.blocks()) == 32_000


SOUND = encode(tone(1.0), container="ipod", codec="aac")


def box_of(kind: bytes, name: bytes, size: int) -> bytes:
    """Return an MP4 with a box behind it in which the name of a table comes again and again."""
    return SOUND + table_names(size, name).replace(b"free", kind, 1)


@pytest.mark.parametrize("name", [b"stts", b"soun", b"trun"])
@pytest.mark.parametrize("kind", [b"free", b"moov"])
def test_the_time_for_tables_grows_with_their_size(kind: bytes, name: bytes) -> None:
    check_linear(partial(checking, kind, name), 1 << 14, 1 << 19)


def checking(kind: bytes, name: bytes, size: int) -> Callable[[], None]:
    data = box_of(kind, name, size)

    def run() -> None:
        with contextlib.suppress(InvalidAudio):
            mp4_guard.check_mp4_tables(BoundedFile(BytesIO(data), len(data), is_ours=True))

    return run


def test_names_of_tables_are_searched_only_where_libav_does() -> None:
    assert mp4_guard.MAX_TABLES * 12 < 8 << 20
    many = 8 << 20
    with PROCESSOR.open(box_of(b"free", b"soun", many)) as stream:
        assert stream.info.format == "m4a"
    with pytest.raises(InvalidAudio, match="more samples"):
        PROCESSOR.open(box_of(b"moov", b"soun", many))
    hidden = struct.pack(">I", many + 16) + b"free" + struct.pack(">I", many + 8) + b"mvhd"
    with pytest.raises(InvalidAudio, match="more samples"):
        PROCESSOR.open(SOUND + hidden + b"soun" * (many // 4))
