"""What the fuzzer starts from: a moment of sound in every container that libav writes, and no audio.

Nothing is stored: PyAV's own muxers make the files, at every start, in about a second.
"""

from __future__ import annotations

from functools import cache

import av
import numpy as np

from tests.support.audio_files import (
    NOT_MEDIA,
    SCRIPTS,
    SDP,
    Sound,
    adaptive_multi_rate,
    encode,
    film,
    tone,
    video,
)

SECONDS = 0.15
NOBODY = "http://127.0.0.1:9/a.wav"  # the port that discards

# (container, codec, sample rate, channels); those at the end are not among the formats that we read
FILES = [
    ("wav", "pcm_s16le", 8_000, 1),
    ("wav", "pcm_f32le", 8_000, 2),
    ("wav", "adpcm_ms", 8_000, 1),
    ("wav", "libmp3lame", 16_000, 1),
    ("w64", "pcm_s16le", 8_000, 1),
    ("mp3", "libmp3lame", 16_000, 2),
    ("mp2", "mp2", 16_000, 1),
    ("ipod", "aac", 16_000, 1),
    ("ipod", "alac", 16_000, 2),
    ("mp4", "flac", 16_000, 1),
    ("mp4", "libopus", 16_000, 1),
    ("mp4", "ac3", 48_000, 2),
    ("mov", "pcm_s16le", 8_000, 1),
    ("mov", "adpcm_ima_qt", 8_000, 1),
    ("ismv", "aac", 16_000, 1),
    ("flac", "flac", 16_000, 2),
    ("ogg", "libopus", 16_000, 1),
    ("ogg", "flac", 16_000, 1),
    ("ogg", "libvorbis", 16_000, 1),
    ("ogg", "libspeex", 16_000, 1),
    ("webm", "libopus", 16_000, 2),
    ("webm", "libvorbis", 16_000, 1),
    ("matroska", "aac", 16_000, 1),
    ("matroska", "pcm_f32le", 8_000, 1),
    ("matroska", "wavpack", 16_000, 1),
    ("matroska", "tta", 16_000, 1),
    ("adts", "aac", 16_000, 2),
    ("latm", "aac", 16_000, 1),
    ("aiff", "pcm_s16be", 8_000, 1),
    ("au", "pcm_mulaw", 8_000, 1),
    ("caf", "pcm_s16le", 8_000, 1),
    ("caf", "alac", 16_000, 1),
    ("caf", "libopus", 16_000, 1),
    ("avi", "libmp3lame", 16_000, 1),
    ("avi", "pcm_s16le", 8_000, 2),
    ("flv", "aac", 16_000, 1),
    ("flv", "nellymoser", 16_000, 1),
    ("mpegts", "aac", 16_000, 1),
    ("mpegts", "libopus", 16_000, 1),
    ("mpeg", "mp2", 16_000, 1),
    ("vob", "ac3", 48_000, 2),
    ("asf", "wmav2", 16_000, 1),
    ("asf", "flac", 16_000, 1),
    ("nut", "libmp3lame", 16_000, 1),
    ("voc", "pcm_u8", 8_000, 1),
    ("wv", "wavpack", 16_000, 1),
    ("tta", "tta", 16_000, 1),
    ("ac3", "ac3", 48_000, 1),
    ("rm", "real_144", 8_000, 1),
    ("oma", "pcm_s16be", 44_100, 2),
]
FILMS = ("matroska", "mp4", "mpegts")  # with a late track and one with a gap
IN_PIECES = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def _tracks() -> tuple[Sound, Sound]:
    sides = np.stack([tone(SECONDS, 48_000), -tone(SECONDS, 48_000)])
    return Sound(sides, start_s=0.4, language="ger"), Sound(sides[0], jumps=((0.05, 0.3),), language="eng")


@cache
def seeds() -> tuple[bytes, ...]:
    """Return the files; what this build of libav cannot write is left out."""
    files = [_made(*each) for each in FILES]
    found = [data for data in files if data is not None]
    found.append(encode(tone(SECONDS), 16_000, "mp4", "aac", options=IN_PIECES))
    found += [adaptive_multi_rate("amr"), adaptive_multi_rate("3gp")]
    found.append(video(sound=tone(1.0)))
    found += [film(*_tracks(), container=container, picture_s=0.2) for container in FILMS]
    scripts = [text.format(url=NOBODY) for text in SCRIPTS.values()]
    found += [text.encode() for text in (*scripts, SDP.format(port=9))]
    return (*found, *NOT_MEDIA.values())


def _made(container: str, codec: str, rate: int, channels: int) -> bytes | None:
    try:
        return encode(tone(SECONDS, rate), rate, container, codec, channels)
    except (av.FFmpegError, ValueError):
        return None
