"""Opens containers: which formats libav may read, what it may open and allocate, and what it has found.

Owns the translation of libav's terms and errors into those of core. Must not know of samples.
"""

from __future__ import annotations

import ctypes
import functools
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import InvalidAudio
from whisper_server.core.types import AudioInfo, Track

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream as LibavStream
    from av.container import InputContainer

    from whisper_server.services.audio.bounded_file import BoundedFile

# Formats with a header of their own that people record, export and send. Left out is what names other
# files or addresses (such as hls, dash, concat, sdp, rtsp), scripts and subtitles, pictures, devices, raw
# samples without a header (they would make audio of any bytes), and the formats of games and set-top boxes.
DEMUXERS = "aac,aiff,amr,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"

# A WAV of 2 kB can say that its title has 4 GB, which libav would allocate and fill before it reads a byte.
# The largest piece that a recording needs is the index of an MP4: `mp4_guard` lets it grow to 127 MB.
MAX_ALLOCATION_BYTES = 160 << 20

# Audio discs have DTS and AC-3 in WAVs that claim to be PCM, so libav compares the first two seconds of every
# WAV with all formats it knows, over and over: most of what opening one takes (bench/experiments/stages.py).
# A quarter of a second has 16 frames of such audio.
PROBED_PACKETS = 4  # of a sixteenth of a second

DEFAULT_FLAG = 1  # AV_DISPOSITION_DEFAULT of libavformat

NOT_AUDIO = (  # as the hosted API words it
    "Invalid file format. Supported formats: "
    "['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', 'wav', 'webm']"
)
TOO_HUNGRY = "The file cannot be decoded: it takes too much memory. Convert it with another program."
MAX_TAG_CHARS = 35  # of a language; BCP 47 (RFC 5646, 4.4.1) recommends room for as many


def open_container(file: BoundedFile) -> InputContainer:
    """Let libav detect what the bytes are; it can open nothing else, whatever they say.

    Its memory is not bounded by this: `check_mp4_tables` comes first.

    Raises:
        InvalidAudio: none of the formats on the list, or one that takes too much memory to open.
    """
    import av  # noqa: PLC0415  (with the first file, not when the server starts)

    _limit_allocations()
    options = {
        "format_whitelist": DEMUXERS,
        "codec_whitelist": audio_codecs(),
        "protocol_whitelist": "none",
        "enable_drefs": "0",
    }
    if _is_wave(file):
        options["max_probe_packets"] = str(PROBED_PACKETS)
    try:
        container: InputContainer = av.open(
            file, mode="r", container_options=options, io_open=_refuse, **_tolerant_titles()
        )
    except libav_errors() as error:
        file.check()
        raise InvalidAudio(TOO_HUNGRY if isinstance(error, MemoryError) else NOT_AUDIO) from error
    return container


@functools.cache
def audio_codecs() -> str:
    """Return the decoders of sound that libav has, as its options take a list.

    While it looks at a file it would decode pictures and subtitles too: seven covers of 156 kB took 1 GB.
    """
    from av.codec.codec import Codec, UnknownCodecError, codecs_available  # noqa: PLC0415

    found = []
    for name in sorted(codecs_available):
        with suppress(UnknownCodecError):  # an encoder
            if Codec(name, "r").type == "audio":
                found.append(name)
    return ",".join(found)


@functools.cache
def _tolerant_titles() -> dict[str, Any]:
    """Return the arguments by which a title in a legacy encoding does not fail the file.

    PyAV before 19 decodes titles strictly unless told otherwise; 19 has no such argument and never fails.
    """
    import av  # noqa: PLC0415

    major = int(av.__version__.partition(".")[0])
    return {} if major >= 19 else {"metadata_errors": "replace"}


def _is_wave(file: BoundedFile) -> bool:
    """Look at the beginning, where the file can go back to it."""
    if not file.seekable():
        return False
    start = file.read(12)
    file.seek(0)
    return start[:4] in {b"RIFF", b"RF64"} and start[8:] == b"WAVE"


@functools.cache
def _limit_allocations() -> None:
    """Bound what libav takes at once, in this process; PyAV has no way to say it."""
    import av._core  # noqa: PLC0415

    # Its symbols are found through a library that uses it, but on Windows only in its own.
    own = Path(av._core.__file__).parents[1].glob("av.libs/avutil-*.dll")
    for library in (av._core.__file__, *map(str, own)):
        try:
            ctypes.CDLL(library).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION_BYTES))
        except (OSError, AttributeError):
            continue
        return


def _refuse(_url: str, _flags: int, _options: object) -> None:
    """Refuse to open another file for libav: the second barrier, behind the whitelists."""
    raise PermissionError("a media file must not open another one")


def libav_errors() -> tuple[type[Exception], ...]:
    """Return what PyAV raises for bad input: libav's errors, and its own where a value does not fit."""
    from av.error import FFmpegError  # noqa: PLC0415

    return (FFmpegError, ValueError, OverflowError, MemoryError, PermissionError)


def tracks_of(container: InputContainer) -> tuple[Track, ...]:
    """Return what the header says of each audio track, unchecked."""
    zero_s = start_of(container) or 0.0
    return tuple(_track(index, each, zero_s) for index, each in enumerate(container.streams.audio))


def start_of(container: InputContainer) -> float | None:
    """Return when the earliest track starts, in seconds on the clock of the frames; None where none says.

    It is the second 0 of players: of a broadcast, say, that was recorded in the middle.
    """
    return None if container.start_time is None else container.start_time / 1_000_000  # microseconds


def _track(index: int, stream: LibavStream, zero_s: float) -> Track:
    codec = stream.codec_context
    start, unit = stream.start_time, stream.time_base
    tag = stream.language or ""
    is_tag = len(tag) <= MAX_TAG_CHARS and tag.isascii() and tag.replace("-", "").isalnum()
    return Track(
        index=index,
        codec=codec.name if codec is not None else "",
        language=tag if is_tag and tag != "und" else "",
        is_default=bool(stream.disposition & DEFAULT_FLAG),
        channels=codec.layout.nb_channels if codec is not None else 0,
        sample_rate_hz=codec.sample_rate if codec is not None else 0,
        start_s=0.0 if start is None or unit is None else start * float(unit) - zero_s,
    )


def stream_of(container: InputContainer, number: int) -> LibavStream:
    """Return an audio track that can be decoded, made ready for it."""
    stream = container.streams.audio[number]
    stream.codec_context.thread_count = 1  # the caller's pool bounds the CPU
    return stream


def describe(
    file: BoundedFile, container: InputContainer, tracks: tuple[Track, ...], number: int
) -> AudioInfo:
    """Return what the header says of the file and of the track that is heard, unchecked."""
    codec = container.streams.audio[number].codec_context
    seconds = container.duration / 1_000_000 if container.duration else 0.0  # libav counts microseconds
    return AudioInfo(
        format=_format(file.first_bytes, container, codec.name),
        container=container.format.name,
        codec=codec.name,
        sample_rate_hz=codec.sample_rate,
        channels=codec.layout.nb_channels,
        size_bytes=file.size_bytes,
        header_duration_s=seconds if seconds > 0 else None,
        tracks=tracks,
        track=number,
    )


def _format(first_bytes: bytes, container: InputContainer, codec: str) -> str:
    """Name the format as its users do, from what is in the file."""
    demuxer = container.format.name
    if demuxer.startswith("mov"):
        has_video = any(not _is_cover(stream.codec_context) for stream in container.streams.video)
        return "mp4" if has_video else "m4a"
    if demuxer.startswith("matroska"):
        return "webm" if b"webm" in first_bytes else "mkv"
    if demuxer == "ogg":
        return "opus" if "opus" in codec else "ogg"
    return {"asf": "wma", "mpegts": "ts"}.get(demuxer, demuxer)


def _is_cover(codec: av.CodecContext | None) -> bool:
    """Tell cover art from a film: music files embed JPEG and PNG, cameras do not."""
    return codec is not None and codec.name in {"mjpeg", "png", "bmp"}
