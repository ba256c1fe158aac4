"""Every format in, 16 kHz mono out; and nothing that a file can say breaks a limit or opens a door."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import av.filter
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import audio_files as files
from tests.support.audio_files import clips, encode, tone, video, wav_bytes
from whisper_server.core.errors import AudioTooLong, InvalidAudio, PayloadTooLarge
from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.decoder import TOO_SHORT, LibavDecoder
from whisper_server.services.audio.demuxer import NOT_AUDIO
from whisper_server.services.audio.loudness import MAX_GAIN, TARGET_PEAK, normalised
from whisper_server.services.audio.tracks import NO_AUDIO_TRACK
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.speech import vad

PYAV_MAJOR = int(av.__version__.partition(".")[0])
PROCESSOR = AudioProcessor(max_bytes=25 << 20, max_seconds=4 * 3600)

# (what we call it, muxer, encoder, how far its levels may be off)
FORMATS = [
    ("wav", "wav", "pcm_s16le", 0.01),
    ("wav", "wav", "pcm_u8", 0.02),
    ("wav", "wav", "pcm_s24le", 0.01),
    ("wav", "wav", "pcm_f32le", 0.01),
    ("wav", "wav", "pcm_f64le", 0.01),
    ("wav", "wav", "pcm_alaw", 0.05),
    ("wav", "wav", "pcm_mulaw", 0.05),
    ("w64", "w64", "pcm_s16le", 0.01),
    ("mp3", "mp3", "libmp3lame", 0.1),
    ("m4a", "ipod", "aac", 0.1),
    ("m4a", "mp4", "aac", 0.1),
    ("m4a", "ipod", "alac", 0.01),
    ("m4a", "mov", "pcm_s16le", 0.01),
    ("flac", "flac", "flac", 0.01),
    ("ogg", "ogg", "flac", 0.01),
    ("opus", "ogg", "libopus", 0.1),
    ("webm", "webm", "libopus", 0.1),
    ("mkv", "matroska", "aac", 0.1),
    ("aac", "adts", "aac", 0.1),
    ("aiff", "aiff", "pcm_s16be", 0.01),
    ("au", "au", "pcm_s16be", 0.01),
    ("caf", "caf", "pcm_s16le", 0.01),
    ("avi", "avi", "libmp3lame", 0.1),
    ("flv", "flv", "aac", 0.1),
    ("ts", "mpegts", "aac", 0.1),
]
RATES = [8_000, 16_000, 22_050, 44_100, 48_000]


def decode(source: bytes, processor: AudioProcessor = PROCESSOR) -> np.ndarray:
    with processor.open(source) as stream:
        return np.concatenate(list(stream.blocks()))


def message(source: bytes, processor: AudioProcessor = PROCESSOR) -> str:
    with pytest.raises(InvalidAudio) as caught:
        decode(source, processor)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize(("channels", "container", "codec"), [(2, "wav", "pcm_s16le"), (6, "flac", "flac")])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_one_channel_or_all_side_by_side(channels: int, container: str, codec: str, rate: int) -> None:
    pitches = [300 + 200 * channel for channel in range(channels)]
    data = encode(np.stack([tone(2.0, rate, hz) for hz in pitches]), rate, container, codec)

    def pitch(samples: np.ndarray) -> float:
        part = samples[8_000:24_000]
        return float(np.abs(np.fft.rfft(part)).argmax())  # 1 s: bins of 1 Hz

    def level(samples: np.ndarray) -> float:
        return float(np.sqrt(np.square(samples[8_000:24_000]).mean()))

    for channel, hz in enumerate(pitches):
        with PROCESSOR.open(data, channel) as stream:
            assert pitch(np.concatenate(list(stream.blocks()))) == pytest.approx(hz, abs=2)
    with PROCESSOR.open(data) as stream:
        pieces = list(stream.planes())
    assert max(piece.shape[1] for piece in pieces) <= SAMPLE_RATE
    planes = np.concatenate(pieces, axis=1)
    assert len(planes) == channels
    assert [pitch(plane) for plane in planes] == pytest.approx(pitches, abs=2)
    assert [level(plane) for plane in planes] == pytest.approx([0.354] * channels, abs=0.03)


def test_a_channel_that_is_not_there() -> None:
    with (
        pytest.raises(InvalidAudio, match="number of channels"),
        PROCESSOR.open(encode(tone(1.0)), 1) as stream,
    ):
        list(stream.blocks())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("name", "container", "codec", "tolerance"), FORMATS)
def test_every_format(
    name: str, container: str, codec: str, tolerance: float, rate: int, channels: int
) -> None:
    if codec == "libopus" and rate not in (8_000, 16_000, 48_000):
        pytest.skip("opus knows no such rate")
    data = encode(tone(1.5, rate), rate, container, codec, channels)
    with PROCESSOR.open(data) as stream:
        samples = np.concatenate(list(stream.blocks()))
        levels = stream.levels()
        info = stream.info
    assert samples.dtype == np.float32
    assert info.format == name
    assert info.channels == channels
    assert info.sample_rate_hz == (48_000 if codec == "libopus" else rate)
    assert info.size_bytes == len(data)
    # A lossy codec may add its delay and a frame at the end, at 8 kHz up to a third of a second.
    assert 1.49 <= len(samples) / SAMPLE_RATE <= 1.85
    assert levels.duration_s == len(samples) / SAMPLE_RATE == stream.position_s
    assert levels.rms_dbfs == pytest.approx(-9.03, abs=1.2)
    middle = samples[SAMPLE_RATE // 2 : SAMPLE_RATE]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(middle) - 440) <= 3
    assert np.abs(samples).max() == pytest.approx(TARGET_PEAK, abs=1e-3)
    assert np.abs(middle).max() == pytest.approx(
        TARGET_PEAK, abs=0.5 if tolerance >= 0.1 else tolerance + 0.01
    )


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_lossless_audio_at_16_khz_is_untouched_but_for_the_gain(container: str, codec: str) -> None:
    speech = clips()[0].samples()
    np.testing.assert_allclose(
        decode(encode(speech, container=container, codec=codec)),
        speech * (TARGET_PEAK / np.abs(speech).max()),
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("container", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus"), ("webm", "libopus")]
)
def test_the_delay_of_a_codec_is_taken_off(container: str, codec: str) -> None:
    speech = clips()[4].samples()
    found = decode(encode(speech, container=container, codec=codec))[: len(speech)]
    product = np.fft.rfft(found, 2 * len(speech)) * np.conj(np.fft.rfft(speech, 2 * len(speech)))
    lag = int(np.argmax(np.fft.irfft(product)))
    assert min(lag, 2 * len(speech) - lag) <= SAMPLE_RATE // 500


def test_resampling_keeps_time_and_leaves_no_alias() -> None:
    speech = np.zeros(48_000, np.float32)
    speech[24_000] = 0.9
    found = decode(wav_bytes((speech * 32767).astype("<i2").tobytes(), rate=48_000))
    assert int(np.argmax(np.abs(found))) == 8_000
    high = tone(1.0, 48_000, hz=11_000) + 0.01 * tone(1.0, 48_000, hz=1_000)
    found = decode(wav_bytes((high * 32767).astype("<i2").tobytes(), rate=48_000))
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert spectrum[5_000 - 50 : 5_000 + 50].max() < 0.05 * spectrum[1_000]  # 16 kHz - 11 kHz


def test_downmix_does_not_clip() -> None:
    for channels in (2, 6):
        data = encode(tone(1.0, amplitude=1.0), container="wav", codec="pcm_f32le", channels=channels)
        with PROCESSOR.open(data) as stream:
            list(stream.blocks())
            assert stream.levels().peak_dbfs <= 0.01
            assert stream.levels().peak_dbfs > -3


def test_one_silent_side_is_no_loss() -> None:
    speech = clips()[0].samples()
    found = decode(encode(np.stack([speech, np.zeros_like(speech)])))
    np.testing.assert_allclose(found, speech * (TARGET_PEAK / np.abs(speech).max()), atol=1e-3)


@pytest.mark.parametrize("channels", [3, 9, 33, 64])
def test_channels_without_places_count_the_same(channels: int) -> None:
    frames = np.tile((tone(1.0) * 32767).astype("<i2")[:, None], (1, channels))
    with PROCESSOR.open(wav_bytes(frames.tobytes(), channels=channels)) as stream:
        samples = np.concatenate(list(stream.blocks()))
        assert stream.info.channels == channels
        assert stream.levels().peak_dbfs == pytest.approx(-6.02, abs=1.0)
    assert len(samples) == SAMPLE_RATE


def test_a_change_of_format_in_mid_stream() -> None:
    # Two ogg files one behind the other are one chained file, here with other channels after the change.
    data = encode(tone(1.0, 48_000), 48_000, "adts", "aac", 1) + encode(
        tone(1.0, 48_000), 48_000, "adts", "aac", 2
    )
    assert len(decode(data)) / SAMPLE_RATE == pytest.approx(2.0, abs=0.2)
    data = encode(tone(1.0, 44_100), 44_100, "adts", "aac", 1) + encode(
        tone(1.0, 16_000), 16_000, "adts", "aac", 2
    )
    assert len(decode(data)) / SAMPLE_RATE == pytest.approx(2.0, abs=0.3)


# Sources.


def test_other_sound_in_a_wav_that_claims_to_be_pcm_is_found() -> None:
    sound = encode(tone(3.0, rate=44_100), 44_100, "ac3", "ac3", channels=2)
    data = wav_bytes(sound, rate=44_100, channels=2)
    with PROCESSOR.open(data) as stream:
        assert stream.info.codec == "ac3"
        found = np.concatenate(list(stream.blocks()))
    assert 2.9 < len(found) / SAMPLE_RATE < 3.1
    spectrum = np.abs(np.fft.rfft(found[SAMPLE_RATE : 2 * SAMPLE_RATE]))  # 1 s: bins of 1 Hz
    assert abs(int(spectrum.argmax()) - 440) <= 3


def test_a_path_a_file_object_and_memory(tmp_path: Path) -> None:
    data = encode(clips()[0].samples())
    path = tmp_path / "Prüf ung.mp3"
    path.write_bytes(data)
    expected = decode(data)
    with path.open("rb") as file:
        for source in (path, file, bytearray(data), memoryview(data), io.BytesIO(data)):
            with PROCESSOR.open(source) as stream:
                assert stream.info.format == "wav"
                np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), expected)
        assert not file.closed


class Pipe(io.RawIOBase):
    """Standard input: no size, no seeking."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1000))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def test_a_source_that_cannot_seek() -> None:
    data = encode(clips()[0].samples(), container="ogg", codec="libopus")
    with PROCESSOR.open(Pipe(data)) as stream:
        assert stream.info.size_bytes is None
        assert len(np.concatenate(list(stream.blocks()))) > SAMPLE_RATE
    small = AudioProcessor(max_bytes=len(data) - 10, max_seconds=60)
    with pytest.raises(PayloadTooLarge):
        decode(Pipe(data), small)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.wav", tmp_path):
        with pytest.raises(InvalidAudio, match="cannot be read"):
            PROCESSOR.open(path)


def test_close_is_idempotent_and_frees_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encode(tone(1.0)))
    process = psutil.Process()
    stream = PROCESSOR.open(path)
    assert str(path) in [f.path for f in process.open_files()]
    stream.close()
    stream.close()
    assert str(path) not in [f.path for f in process.open_files()]
    with pytest.raises(ValueError, match="closed"):
        next(stream.blocks())
    forgotten = PROCESSOR.open(path)
    del forgotten
    gc.collect()
    assert str(path) not in [f.path for f in process.open_files()]
    with pytest.raises(InvalidAudio):
        AudioProcessor(25 << 20, 60).open(_write(tmp_path / "x.txt", b"hello" * 100))
    assert str(tmp_path / "x.txt") not in [f.path for f in process.open_files()]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_close_from_another_thread_ends_the_reader() -> None:
    stream = PROCESSOR.open(encode(np.zeros(SAMPLE_RATE * 600, np.float32), container="flac", codec="flac"))
    blocks = stream.blocks()
    next(blocks)
    closer = threading.Thread(target=stream.close)
    closer.start()
    closer.join()
    with pytest.raises(ValueError, match="closed"):
        list(blocks)


@pytest.mark.skipif(not hasattr(av.filter.Graph, "threads"), reason="this PyAV cannot be told")
@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("ipod", "aac"), ("webm", "libopus")])
def test_one_file_takes_one_thread(container: str, codec: str) -> None:
    data = encode(tone(40.0, 48_000), 48_000, container, codec, 2)
    process = psutil.Process()
    list(PROCESSOR.open(data).blocks())  # whatever libraries start once
    before = process.num_threads()
    file = BoundedFile(io.BytesIO(data), len(data), is_ours=True)
    with contextlib.closing(LibavDecoder(file, 60)) as decoder:
        for _ in decoder.pieces("mix"):
            assert process.num_threads() == before


# Limits.


def test_more_bytes_than_allowed() -> None:
    data = encode(tone(1.0))
    with pytest.raises(PayloadTooLarge) as caught:
        AudioProcessor(max_bytes=1000, max_seconds=60).open(data)
    assert str(caught.value).startswith(
        f"Maximum content size limit (1000) exceeded ({len(data)} bytes read)"
    )
    assert "MAX_AUDIO_FILE_SIZE_MB" in str(caught.value)
    with AudioProcessor(max_bytes=len(data), max_seconds=60).open(data):
        pass


@pytest.mark.parametrize(
    ("container", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("ipod", "aac"), ("mp3", "libmp3lame")]
)
def test_a_bomb_of_silence_is_stopped_at_the_limit(container: str, codec: str) -> None:
    data = encode(np.zeros(SAMPLE_RATE * 240, np.float32), container=container, codec=codec)
    processor = AudioProcessor(max_bytes=25 << 20, max_seconds=120)
    with processor.open(data) as stream:
        with pytest.raises(AudioTooLong, match=r"120 seconds.*MAX_AUDIO_SECONDS"):
            list(stream.blocks())
        assert stream.position_s <= 121


def test_exactly_the_limit_is_allowed() -> None:
    assert len(decode(encode(tone(5.0)), AudioProcessor(25 << 20, 5.0))) == 5 * SAMPLE_RATE


def test_a_header_is_not_believed() -> None:
    # A WAV that claims an hour and one that claims nothing (what a recorder leaves that was killed).
    pcm = (tone(2.0) * 32767).astype("<i2").tobytes()
    for claim in (3600 * 32_000, 0xFFFFFFFF, 0):
        assert len(decode(wav_bytes(pcm, data_size=claim))) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.099])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_too_short(seconds: float, rate: int) -> None:
    pcm = (tone(seconds, rate) * 32767).astype("<i2").tobytes()
    assert message(wav_bytes(pcm, rate=rate)) == TOO_SHORT


def test_a_tenth_of_a_second_is_enough_and_nothing_is_too_short() -> None:
    assert len(decode(encode(tone(0.1)))) == 1600
    assert message(b"") == TOO_SHORT
    assert message(wav_bytes(b"\0\0")) == TOO_SHORT


@pytest.mark.parametrize(
    "fields",
    [
        {"rate": 0},
        {"rate": 1},
        {"rate": -1},
        {"rate": 0x7FFFFFFF},
        {"rate": 800_000},
        {"channels": 0},
        {"channels": 65},
        {"channels": 65_535},
        {"bits": 0},
        {"bits": 65_535},
        {"tag": 0x5555},
    ],
)
def test_forged_wav_headers_are_refused_and_cost_nothing(fields: dict[str, int]) -> None:
    data = wav_bytes(bytes(64_000), **fields)
    tracemalloc.start()
    before = psutil.Process().memory_info().rss
    try:
        with pytest.raises(InvalidAudio):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert psutil.Process().memory_info().rss - before < 50e6


def _put(data: bytes, name: bytes, offset: int, value: int) -> bytes:
    at = data.index(name) + 4 + offset
    return data[:at] + value.to_bytes(4, "big") + data[at + 4 :]


def test_forged_mp4_tables_are_refused_and_cost_nothing() -> None:
    whole = encode(tone(3.0), container="ipod", codec="aac")
    pieces = encode(
        tone(3.0),
        container="mp4",
        codec="aac",
        options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )
    assert len(decode(whole)) > 2 * SAMPLE_RATE
    assert len(decode(pieces)) > 2 * SAMPLE_RATE
    many = 80_000_000  # 24 bytes each in libav's index: 2 GB from a file of 20 kB
    before = psutil.Process().memory_info().rss
    for data in (
        _put(_put(whole, b"stsz", 4, 1), b"stsz", 8, many),
        _put(whole, b"stts", 8, many),
        _put(whole, b"elst", 4, many),
        _put(pieces, b"trun", 4, many),
        whole.replace(b"stsd", b"cmov"),
    ):
        with pytest.raises(InvalidAudio):
            decode(data)
    assert psutil.Process().memory_info().rss - before < 100e6


@pytest.mark.parametrize("table", [b"stts", b"ctts"])
def test_tables_that_lie_inside_one_another_are_not_summed_again_and_again(table: bytes) -> None:
    # Every name would have all that follows it read as its table: the square of the size.
    nested = (table + b"\0\0\0\0\x7f\xff\xff\xff" + b"\0\0\0\0") * (1 << 20)
    with pytest.raises(InvalidAudio, match="claims more samples"):
        decode((len(nested) + 8).to_bytes(4, "big") + b"moov" + nested)


def test_an_hour_of_pcm_in_mov_is_not_mistaken_for_a_bomb() -> None:
    data = encode(np.zeros(8_000 * 1200, np.float32), 8_000, "mov", "pcm_s16le")  # 9.6 million samples
    assert len(decode(data)) == 1200 * SAMPLE_RATE


# Damage.


@pytest.mark.parametrize(
    ("container", "codec"),
    [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"), ("webm", "libopus"),
     ("adts", "aac"), ("mpegts", "aac")],
)  # fmt: skip
def test_a_truncated_file_gives_what_is_there(container: str, codec: str) -> None:
    speech = np.random.default_rng(5).standard_normal(8 * SAMPLE_RATE).astype(np.float32) / 5
    data = encode(speech, container=container, codec=codec)
    for part in (0.5, 0.51, 0.777):
        found = decode(data[: int(len(data) * part)])
        assert len(found) / SAMPLE_RATE == pytest.approx(8 * part, abs=1.3)


def test_a_truncated_file_with_nothing_to_decode() -> None:
    m4a = encode(tone(3.0), container="ipod", codec="aac")  # its moov is at the end
    assert message(m4a[: len(m4a) // 2]) == NOT_AUDIO
    for data in (encode(tone(1.0), container="flac", codec="flac"), encode(tone(1.0))):
        for n in (1, 4, 8, 12, 20, 40):
            assert message(data[:n]) in (NOT_AUDIO, TOO_SHORT)


def test_an_odd_number_of_bytes() -> None:
    # Half a sample at the end: older libav drops the packet that it is in.
    assert SAMPLE_RATE - 4096 <= len(decode(encode(tone(1.0))[:-1])) <= SAMPLE_RATE


def test_not_a_number_and_infinity_become_silence() -> None:
    values = tone(1.0)
    values[4_000:4_100], values[8_000], values[12_000] = np.nan, np.inf, -np.inf
    data = wav_bytes(values.astype("<f4").tobytes(), bits=32, tag=3)
    with PROCESSOR.open(data) as stream:
        samples = np.concatenate(list(stream.blocks()))
        levels = stream.levels()
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert not samples[4_000:4_100].any()
    assert levels.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    everywhere = np.full(16_000, np.nan, "<f4").tobytes()
    assert not decode(wav_bytes(everywhere, bits=32, tag=3)).any()


def test_floats_beyond_full_scale() -> None:
    data = wav_bytes((tone(1.0) * 1e30).astype("<f4").tobytes(), bits=32, tag=3)
    assert np.abs(decode(data)).max() == pytest.approx(TARGET_PEAK, abs=1e-3)


def test_a_jump_far_beyond_the_end_is_no_large_file() -> None:
    """The 413 of a file of some kilobytes, which the fuzzer found: the position was taken for the size."""
    file = BoundedFile(io.BytesIO(b"abc"), 100, is_ours=True)
    file.seek(1 << 40)
    assert file.read(10) == b""
    file.check()


def test_tracks_that_turn_up_on_the_way_are_no_error_of_ours() -> None:
    """PyAV's IndexError at the end of an MPEG-TS, which the fuzzer found: what was decoded is kept."""
    with PROCESSOR.open(encode(tone(1.0), container="mpegts", codec="aac")) as stream:
        decoder = stream._opened.decoder
        whole = decoder._container

        class Broken:
            close = whole.close

            def demux(self, track: object) -> Iterator[object]:
                yield from whole.demux(track)
                raise IndexError

        decoder._container = Broken()
        assert len(np.concatenate(list(stream.blocks()))) > 0.9 * SAMPLE_RATE


# What is no audio, and what would open something else.


@pytest.mark.parametrize("kind", list(files.NOT_MEDIA))
def test_what_is_no_media(kind: str) -> None:
    assert message(files.NOT_MEDIA[kind]) in (NOT_AUDIO, NO_AUDIO_TRACK)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4")])
def test_video_without_sound(container: str, codec: str) -> None:
    assert message(video(container=container, codec=codec)) == NO_AUDIO_TRACK


def test_video_with_sound() -> None:
    with PROCESSOR.open(video(sound=tone(1.0))) as stream:
        assert stream.info.format == "mp4"
        assert len(np.concatenate(list(stream.blocks()))) > 0.8 * SAMPLE_RATE


class Canary:
    """A server that must not be called and a file that must not be read."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "canary.wav"
        self.file.write_bytes(encode(tone(2.0)))
        os.utime(self.file, (1, time.time()))  # relatime updates an access time older than the other
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.socket.setblocking(False)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))

    def was_called(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def was_read(self) -> bool:
        return self.file.stat().st_atime != 1

    @property
    def urls(self) -> dict[str, str]:
        return {
            "http": f"http://127.0.0.1:{self.port}/a.wav",
            "tcp": f"tcp://127.0.0.1:{self.port}",
            "path": str(self.file),
            "file": f"file:{self.file}",
            "subfile": f"subfile,,start,0,end,100,,:{self.file}",
            "crypto": f"crypto:{self.file}",
        }


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    bird = Canary(tmp_path)
    yield bird
    bird.socket.close()
    bird.udp.close()


def test_the_canaries_work(canary: Canary) -> None:
    """libav without our rules does follow these scripts, so an untouched canary proves something."""
    playlist = files.M3U8.format(url=canary.urls["http"]).encode()
    unsafe = {"protocol_whitelist": "http,tcp,file", "allowed_extensions": "ALL", "extension_picky": "0"}
    with pytest.raises(av.FFmpegError):
        av.open(io.BytesIO(playlist), format="hls", timeout=0.5, options=unsafe)
    assert canary.was_called()
    script = files.CONCAT.format(url=canary.urls["path"]).encode()
    with av.open(
        io.BytesIO(script), format="concat", options={"safe": "0", "protocol_whitelist": "file"}
    ) as opened:
        assert sum(frame.samples for frame in opened.decode(audio=0)) > 0
    if not canary.was_read():
        pytest.skip("this file system keeps no access times")


@pytest.mark.parametrize("script", [*files.SCRIPTS, "sdp"])
def test_no_script_opens_anything(script: str, canary: Canary) -> None:
    for url in canary.urls.values():
        text = (
            files.SCRIPTS[script].format(url=url) if script != "sdp" else files.SDP.format(port=canary.port)
        )
        assert message(text.encode()) == NOT_AUDIO
    assert not canary.was_called()
    assert not canary.was_read()


@pytest.mark.parametrize("url", ["path", "file", "http"])
def test_no_data_reference_opens_anything(url: str, canary: Canary) -> None:
    m4a = encode(tone(1.0), container="ipod", codec="alac")
    data = files.with_dref(m4a, canary.urls[url])
    with contextlib.suppress(InvalidAudio):
        decode(data)
    assert not canary.was_called()
    assert not canary.was_read()


def test_a_playlist_on_disk_is_as_dead_as_an_upload(canary: Canary, tmp_path: Path) -> None:
    path = _write(tmp_path / "list.m3u8", files.M3U8.format(url="canary.wav").encode())
    with pytest.raises(InvalidAudio):
        PROCESSOR.open(path)
    assert not canary.was_read()


# Fuzz.

SEEDS = [
    encode(tone(0.5), container=container, codec=codec)
    for container, codec in [
        ("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("mp3", "libmp3lame"), ("ipod", "aac"), ("ipod", "alac"),
        ("flac", "flac"), ("ogg", "libopus"), ("webm", "libopus"), ("adts", "aac"), ("aiff", "pcm_s16be"),
        ("au", "pcm_s16be"), ("caf", "pcm_s16le"), ("avi", "libmp3lame"), ("flv", "aac"), ("mpegts", "aac"),
        ("w64", "pcm_s16le"), ("matroska", "aac"),
    ]
]  # fmt: skip
MUTATION = st.tuples(st.integers(0, 2000), st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 4)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(range(len(SEEDS))), st.lists(MUTATION, min_size=1, max_size=6), st.integers(0, 300))
def test_mutated_media_are_audio_or_an_error_of_ours(
    seed: int, mutations: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(SEEDS[seed])
    for position, new in mutations:
        at = position % len(data)
        data[at : at + len(new)] = new[: len(data) - at]
    del data[len(data) - cut :]
    try:
        samples = decode(bytes(data), AudioProcessor(max_bytes=1 << 20, max_seconds=60))
    except (InvalidAudio, PayloadTooLarge):
        return
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1


# Loudness.


def test_levels_are_those_of_the_source() -> None:
    with PROCESSOR.open(encode(tone(3.0, amplitude=0.05))) as stream:
        list(stream.blocks())
        levels = stream.levels()
    assert levels.duration_s == 3.0
    assert levels.peak_dbfs == pytest.approx(-26.02, abs=0.01)
    assert levels.rms_dbfs == pytest.approx(-29.03, abs=0.01)


def test_silence_stays_silent_and_noise_is_not_blown_up() -> None:
    with PROCESSOR.open(encode(np.zeros(SAMPLE_RATE, np.float32))) as stream:
        assert not np.concatenate(list(stream.blocks())).any()
        assert stream.levels().peak_dbfs == -np.inf
    quiet = decode(encode(tone(1.0, amplitude=0.001), codec="pcm_f32le"))
    assert np.abs(quiet).max() == pytest.approx(0.001 * MAX_GAIN, rel=1e-3)


def test_under_two_minutes_there_is_one_gain() -> None:
    quiet, loud = tone(80.0, amplitude=0.1), tone(30.0, amplitude=0.8)
    samples = decode(encode(np.concatenate([quiet, loud])))
    assert np.abs(samples[: 80 * SAMPLE_RATE]).max() == pytest.approx(0.1 * TARGET_PEAK / 0.8, rel=1e-3)
    assert np.abs(samples).max() == pytest.approx(TARGET_PEAK, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0, 4.0]), min_size=1, max_size=14))
def test_nothing_clips_and_the_gain_never_rises(peaks: list[float]) -> None:
    source = [np.full(50, peak, np.float32) for peak in peaks]
    result = list(normalised(block.copy() for block in source))
    assert len(result) == len(source)
    gains = [r / s[0] for r, s in zip(result, source, strict=True) if s[0]]
    assert all(np.abs(block).max() <= TARGET_PEAK * 1.0001 for block in result)
    edges = [float(gain[i]) for gain in gains for i in (0, -1)]
    assert all(left >= right * 0.999 for left, right in itertools.pairwise(edges))


# The whole line, bounded.


@pytest.mark.slow
def test_an_hour_of_silence_streams_in_bounded_memory() -> None:
    data = encode(np.zeros(SAMPLE_RATE * 3600, np.float32), container="flac", codec="flac")
    list(vad.spans([np.zeros(SAMPLE_RATE * 60, np.float32)]))  # the model is loaded before the measurement
    process = psutil.Process()
    before = process.memory_info().rss
    seen = []

    def watched(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            seen.append(process.memory_info().rss - before)
            yield block

    with PROCESSOR.open(data) as stream:
        assert list(vad.spans(watched(stream.blocks()))) == []
        assert stream.position_s == 3600
    assert len(seen) == 120
    assert max(seen) < 100e6  # an hour of float32 alone would be 230 MB


def test_a_title_in_a_legacy_encoding_fails_no_file() -> None:
    title = "Müller spricht\0\0".encode("latin-1")
    chunk = b"INAM" + struct.pack("<I", len(title)) + title
    listed = b"LIST" + struct.pack("<I", 4 + len(chunk)) + b"INFO" + chunk
    wav = wav_bytes(b"\0\0" * 8_000)
    wav = wav[:36] + listed + wav[36:]
    wav = wav[:4] + struct.pack("<I", len(wav) - 8) + wav[8:]
    with pytest.raises(UnicodeDecodeError) if PYAV_MAJOR < 19 else contextlib.nullcontext():
        av.open(io.BytesIO(wav)).close()  # the file is what it is meant to be
    assert len(decode(wav)) == 8_000
