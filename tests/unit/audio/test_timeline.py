"""Sound is heard at its time on the file's clock: late starts, gaps, overlaps and clocks that jump."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audio_files import Sound, encode, film, tone
from whisper_server.core.errors import AudioTooLong
from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.audio.decoder import LibavDecoder
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio.timeline import MIN_GAP_S, Timeline
from whisper_server.services.audio_processor import AudioProcessor

BEEP = tone(2.0, 48_000)
TIMED = [("matroska", "aac"), ("mp4", "aac"), ("mpegts", "aac"), ("flv", "aac"), ("mpeg", "mp2")]
DELAY_S = 0.03  # of a codec, where the container has no word for it


@pytest.fixture(params=["here", "in a process"])
def processor(request: pytest.FixtureRequest) -> Iterator[AudioProcessor]:
    pool = DecoderProcesses(1)
    yield AudioProcessor(32 << 20, 600, LibavDecoder if request.param == "here" else pool.open)
    pool.close()


def sounding(processor: AudioProcessor, data: bytes) -> list[tuple[float, float]]:
    """Return from when to when there is sound, in seconds."""
    with processor.open(data) as stream:
        samples = np.concatenate(list(stream.blocks()))
        assert stream.position_s == len(samples) / SAMPLE_RATE
    at = np.flatnonzero(np.abs(samples) > 0.05)
    parts = np.split(at, np.flatnonzero(np.diff(at) > MIN_GAP_S * SAMPLE_RATE) + 1)
    return [(part[0] / SAMPLE_RATE, (part[-1] + 1) / SAMPLE_RATE) for part in parts]


@pytest.mark.parametrize(("container", "codec"), [*TIMED, ("mov", "pcm_s16le"), ("matroska", "libopus")])
def test_sound_that_starts_later_than_the_film(processor: AudioProcessor, container: str, codec: str) -> None:
    data = film(Sound(BEEP, start_s=3.2), container=container, codec=codec, picture_s=6)
    ((start_s, end_s),) = sounding(processor, data)
    assert start_s == pytest.approx(3.2, abs=DELAY_S)
    assert end_s == pytest.approx(5.2, abs=DELAY_S)


@pytest.mark.parametrize(("container", "codec"), [*TIMED, ("ogg", "libopus")])
def test_a_gap_in_the_timestamps_is_silence(processor: AudioProcessor, container: str, codec: str) -> None:
    sound = Sound(BEEP, jumps=((1.0, 2.5),))
    data = film(sound, container=container, codec=codec, picture_s=0 if container == "ogg" else 6)
    (_, first_end_s), (second_start_s, end_s) = sounding(processor, data)
    assert first_end_s == pytest.approx(1.0, abs=2 * DELAY_S)
    assert second_start_s == pytest.approx(first_end_s + 2.5, abs=0.01)
    assert end_s == pytest.approx(4.5, abs=DELAY_S)


@pytest.mark.long
@pytest.mark.parametrize(("container", "codec"), TIMED)
def test_overlapping_timestamps_lose_no_sound(processor: AudioProcessor, container: str, codec: str) -> None:
    data = film(Sound(BEEP, jumps=((1.0, -0.5),)), container=container, codec=codec, picture_s=6)
    ((start_s, end_s),) = sounding(processor, data)
    assert end_s - start_s == pytest.approx(2.0, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize(("container", "codec"), TIMED)
def test_a_container_that_starts_late_as_a_whole_does_not_shift(
    processor: AudioProcessor, container: str, codec: str
) -> None:
    for picture_s in (0, 3):
        data = film(Sound(BEEP), container=container, codec=codec, picture_s=picture_s, start_s=7.0)
        ((start_s, _),) = sounding(processor, data)
        assert start_s <= DELAY_S


def test_every_channel_and_all_side_by_side_have_the_same_times(processor: AudioProcessor) -> None:
    sound = Sound(np.stack([BEEP, 0.5 * BEEP]), start_s=1.5, jumps=((1.0, 0.7),))
    data = film(sound, codec="libopus", picture_s=6)
    with processor.open(data) as stream:
        mixed = sum(map(len, stream.blocks()))
    with processor.open(data) as stream:
        planes = np.concatenate(list(stream.planes()), axis=1)
    with processor.open(data, 1) as stream:
        one = sum(map(len, stream.blocks()))
    assert mixed == one == planes.shape[1]
    assert not planes[:, :SAMPLE_RATE].any()


def test_a_jump_of_hours_counts_and_costs_nothing(processor: AudioProcessor) -> None:
    for start_s, jumps in ((0.0, ((1.0, 1e6),)), (1e6, ()), (0.0, ((1.0, 500.0), (1.5, 500.0)))):
        data = film(Sound(BEEP, start_s=start_s, jumps=jumps))
        began = time.process_time()
        with processor.open(data) as stream:
            with pytest.raises(AudioTooLong, match="600 seconds"):
                list(stream.blocks())
            assert stream.position_s <= 600
        assert time.process_time() - began < 5


def test_a_long_gap_comes_in_small_pieces() -> None:
    data = film(Sound(BEEP, jumps=((1.0, 500.0),)))
    with AudioProcessor(1 << 20, 600).open(data) as stream:
        sizes = [piece.shape[1] for piece in stream.planes()]
    assert max(sizes) <= SAMPLE_RATE
    assert sum(sizes) / SAMPLE_RATE == pytest.approx(502, abs=0.1)


def test_files_of_one_broadcast_behind_the_other_are_no_gap(processor: AudioProcessor) -> None:
    parts = [film(Sound(BEEP), container="mpegts", start_s=start_s) for start_s in (20.0, 5000.0, 3.0)]
    ((_, end_s),) = sounding(processor, b"".join(parts))
    assert end_s == pytest.approx(6.0, abs=0.2)


def test_formats_that_only_count_are_left_alone(processor: AudioProcessor) -> None:
    for container, codec in (("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("adts", "aac")):
        data = encode(BEEP, 48_000, container, codec)
        ((start_s, end_s),) = sounding(processor, data)
        assert end_s - start_s == pytest.approx(2.0, abs=DELAY_S)


# The arithmetic.


def test_a_stream_of_avi_starts_late_and_has_no_gaps() -> None:
    timeline = Timeline(0.0, "avi")
    assert timeline.silence_before(3.0) == 3.0
    timeline.add(1.0)
    assert timeline.silence_before(9.0) == 0.0


def test_a_gap_after_an_overlap_is_what_is_left_of_it() -> None:
    timeline = Timeline(10.0, "matroska,webm")
    found = []
    for time_s in (10.0, 10.5, 11.5, 14.0, None):
        found.append(timeline.silence_before(time_s))
        timeline.add(1.0)
    assert found == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert timeline.position_s == 6.0


@given(
    st.sampled_from(["matroska,webm", "mpegts", "avi", "flv"]),
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=30),
)
def test_time_never_runs_backwards(demuxer: str, times: list[float | None]) -> None:
    timeline, positions = Timeline(times[0], demuxer), [0.0]
    for time_s in times:
        assert timeline.silence_before(time_s) >= 0
        timeline.add(0.02)
        positions.append(timeline.position_s)
    assert all(later > earlier for earlier, later in itertools.pairwise(positions))
