"""Every container with a forged header, broken off, as a bomb, and what is no audio at all.

What each format does with good input is in test_audio_processor.py; here nothing may be more than an error of
ours or audio within its limits, in bounded memory.
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest

from tests.fuzz.target import outcome
from tests.support.audio_files import NOT_MEDIA, adaptive_multi_rate, encode, tone, wav_bytes
from tests.support.peak_memory import bounded_growth
from whisper_server.core.errors import AudioTooLong, InvalidAudio
from whisper_server.services.audio_processor import AudioProcessor

CONTAINERS = [
    ("wav", "pcm_s16le"), ("w64", "pcm_s16le"), ("mp3", "libmp3lame"), ("ipod", "aac"), ("mov", "pcm_s16le"),
    ("flac", "flac"), ("ogg", "libopus"), ("ogg", "flac"), ("webm", "libopus"), ("matroska", "aac"),
    ("adts", "aac"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("caf", "pcm_s16le"), ("avi", "libmp3lame"),
    ("flv", "aac"), ("mpegts", "aac"), ("mpeg", "mp2"), ("asf", "flac"), ("3gp", "amr_nb"),
    ("amr", "amr_nb"),
]  # fmt: skip
HEADER_BYTES = 1500  # of the beginning, and of the end, where an MP4 has its tables
RATE = {"amr_nb": 8_000}


def made(container: str, codec: str) -> bytes:
    if codec == "amr_nb":
        return adaptive_multi_rate(container)
    return encode(tone(0.5, 48_000), 48_000, container, codec, 2)


def spellings(value: int) -> list[tuple[bytes, str]]:
    """Return every way in which headers write a number, with the format that writes it."""
    formats = ["<I", ">I", "<Q", ">Q", ">d", "<d", ">f", "<f"] + (["<H", ">H"] if value < 1 << 16 else [])
    return [(struct.pack(each, value), each) for each in formats]


def forgeries(data: bytes, rate: int) -> list[bytes]:
    """Replace what looks like the rate, the channels or a size, wherever it is in the header."""
    ends = {*range(min(HEADER_BYTES, len(data))), *range(max(0, len(data) - HEADER_BYTES), len(data))}
    sizes = {len(data) - skip for skip in (8, 36, 44, 46, 78, 80)}
    found = []
    for value in (rate, rate * 4, *sizes):
        for written, layout in spellings(value):
            at = data.find(written)
            if at in ends and at >= 0:
                found += [_with(data, at, layout, bad) for bad in (0, -1, 2**31 - 1)]
    found += [
        data[:at] + bytes([bad]) + data[at + 1 :] for at in range(min(64, len(data))) for bad in (0, 255)
    ]
    return found


def _with(data: bytes, at: int, layout: str, value: int) -> bytes:
    size = struct.calcsize(layout)
    if layout[1] in "df":
        new = struct.pack(layout, float(value))
    else:
        new = (value % (1 << 8 * size)).to_bytes(size, "little" if layout[0] == "<" else "big")
    return data[:at] + new + data[at + size :]


@pytest.mark.long
@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_forged_headers_are_an_error_or_bounded_audio(container: str, codec: str) -> None:
    data = made(container, codec)
    forged = forgeries(data, RATE.get(codec, 48_000))
    assert len(forged) > 90
    with bounded_growth(250):
        for each in forged:
            outcome(each, 0)  # raises what it finds


def test_a_title_that_claims_gigabytes_is_not_believed() -> None:
    """What the fuzzer found: libav took and filled what a WAV of 2 kB said that its title would take."""
    title = b"LIST" + struct.pack("<I", 0xFFFFFFF0) + b"INFOISFT" + struct.pack("<I", 0x61640000) + b"x" * 100
    data = wav_bytes(bytes(3200))
    data = data[:36] + title + data[36:]
    with bounded_growth(100):
        outcome(data, 0)


@pytest.mark.long
@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_a_file_that_breaks_off_anywhere(container: str, codec: str) -> None:
    data = made(container, codec)
    step = max(1, len(data) // 40)
    for size in (*range(min(64, len(data))), *range(64, len(data), step)):
        outcome(data[:size], 0)
    assert outcome(data, 0) == "audio"


@pytest.mark.long
def test_eight_bombs_at_once_stay_within_the_memory() -> None:
    """Eleven minutes of silence in some kilobytes: 307 MB up to the limit, were it all held."""
    silence = np.zeros(16_000 * 660, np.float32)
    kinds = (("ipod", "aac"), ("flac", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame"))
    made = [encode(silence, container=container, codec=codec) for container, codec in kinds]
    bombs = [*made, *made[:2] * 2]
    assert max(len(data) for data in bombs) < 2 << 20
    processor = AudioProcessor(25 << 20, max_seconds=600)

    def explode(data: bytes) -> float:
        with processor.open(data) as stream:
            with pytest.raises(AudioTooLong, match="MAX_AUDIO_SECONDS"):
                for _ in stream.blocks():
                    pass
            return stream.position_s

    with bounded_growth(260), ThreadPoolExecutor(8) as pool:
        assert max(pool.map(explode, bombs)) <= 601


def archives() -> dict[str, bytes]:
    """Return archives with audio in them: what is packed is not looked into."""
    sound = made("wav", "pcm_s16le")
    zipped, tarred = BytesIO(), BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", sound)
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        entry = tarfile.TarInfo("a.wav")
        entry.size = len(sound)
        archive.addfile(entry, BytesIO(sound))
    return {"zip": zipped.getvalue(), "tar.gz": tarred.getvalue()}


OTHERS = {
    **archives(),
    "jpeg": bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb0043") + bytes(600),
    "bmp": b"BM" + struct.pack("<IIIIiiHH", 200, 0, 54, 40, 4, 4, 1, 24) + bytes(200),
    "webp": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + bytes(20),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>' * 5,
    "ass": b"[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:02.00,,,,0,0,0,,hi\n"
    * 5,
    "sami": b"<SAMI><BODY><SYNC Start=0><P>hello</P></SYNC></BODY></SAMI>" * 5,
    "lrc": b"[00:01.00]hello\n[00:02.00]you\n" * 20,
    "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
    "python": b"import os\nos.system('true')\n" * 30,
    "midi": b"MThd\0\0\0\x06\0\1\0\1\0\x60MTrk" + bytes(200),
    "ebml that is no film": b"\x1a\x45\xdf\xa3\x85\x42\x82\x82xx" + bytes(300),
}


@pytest.mark.parametrize("kind", sorted(OTHERS.keys() - NOT_MEDIA.keys() | {"zip"}))
def test_archives_pictures_and_subtitles_are_refused(kind: str) -> None:
    with pytest.raises(InvalidAudio), AudioProcessor(1 << 20, 60).open(OTHERS[kind]) as stream:
        list(stream.blocks())
