"""Small files that are made to cost much time or memory; each is valid enough for libav to begin."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np

from tests.support.audio_files import encode, tone

ODD_RATES = (767_999, 767_997)  # within the limits, and nothing divides them and 16,000


def changing_rate(n_frames: int, rates: Sequence[int] = ODD_RATES, *, rest_s: float = 0.0) -> bytes:
    """WavPack in Matroska whose rate is another one in every frame of 128 samples.

    Every 1000 frames come `rest_s` seconds of silence at 2 kHz, which take next to nothing.
    """
    makers = {rate: _wavpack(rate, np.zeros(128, np.int16)) for rate in rates}
    silence = _wavpack(2000, np.zeros(int(2000 * rest_s), np.int16)) if rest_s else b""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("wavpack", rate=48_000, layout="mono")
        stream.codec_context.open()
        at_s = 0.0
        for number in range(n_frames):
            rate = rates[number % len(rates)]
            file.mux(_packet(stream, makers[rate], at_s))
            at_s += 128 / rate
            if silence and number % 1000 == 999:
                file.mux(_packet(stream, silence, at_s))
                at_s += rest_s
    return out.getvalue()


def _wavpack(rate: int, samples: np.ndarray) -> bytes:
    """Return one block."""
    codec = av.CodecContext.create("wavpack", "w")
    codec.sample_rate, codec.format, codec.layout = rate, "s16p", "mono"
    codec.time_base = Fraction(1, rate)
    codec.options = {"frame_size": str(len(samples))}
    frame = av.AudioFrame.from_ndarray(samples[None], "s16p", "mono")
    frame.sample_rate, frame.pts = rate, 0
    packets = [*codec.encode(frame), *codec.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _packet(stream: av.AudioStream, data: bytes, at_s: float) -> av.Packet:
    packet = av.Packet(data)
    packet.stream = stream
    packet.time_base = Fraction(1, 1000)
    packet.pts = packet.dts = round(at_s * 1000)
    packet.is_keyframe = True
    return packet


def changing_format(n_frames: int) -> bytes:
    """FLAC in Matroska whose number of channels is another one in every frame of 128 samples."""
    parts = []
    for channels in (1, 2):
        codec = av.CodecContext.create("flac", "w")
        layout = "mono" if channels == 1 else "stereo"
        codec.sample_rate, codec.format, codec.layout = 44_100, "s16", layout
        codec.time_base = Fraction(1, 44_100)
        codec.options = {"frame_size": "128"}
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 128 * channels), np.int16), "s16", layout)
        frame.sample_rate, frame.pts = 44_100, 0
        parts.append(b"".join(map(bytes, (*codec.encode(frame), *codec.encode(None)))))
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("flac", rate=44_100, layout="mono")
        stream.codec_context.open()
        for number in range(n_frames):
            file.mux(_packet(stream, parts[number % 2], number * 128 / 44_100))
    return out.getvalue()


def one_sample_packets(n_packets: int) -> bytes:
    """PCM in Matroska, one sample to a packet."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("pcm_u8", rate=8000, layout="mono")
        stream.codec_context.open()
        for number in range(n_packets):
            file.mux(_packet(stream, b"\x80", number / 8000))
    return out.getvalue()


def deflated_blocks(n_blocks: int, block_bytes: int = 9_900_000) -> bytes:
    """PCM in Matroska whose blocks are compressed: each a thousandth of what it becomes."""

    def element(name: str, data: bytes | int) -> bytes:
        data = data.to_bytes(8, "big") if isinstance(data, int) else data
        return bytes.fromhex(name) + (1 << 56 | len(data)).to_bytes(8, "big") + data

    head = element("1A45DFA3", element("4282", b"matroska"))
    zlib_of_blocks = element("6D80", element("6240", element("5034", element("4254", 0))))
    sound = element("E1", element("B5", struct.pack(">d", 8000.0)) + element("9F", 1) + element("6264", 8))
    numbers = element("D7", 1) + element("73C5", 1) + element("83", 2)
    track = element("AE", numbers + element("86", b"A_PCM/INT/LIT") + sound + zlib_of_blocks)
    block = element("A3", b"\x81\0\0\x80" + zlib.compress(bytes(block_bytes), 9))
    clusters = b"".join(element("1F43B675", element("E7", at * 1000) + block) for at in range(n_blocks))
    info = element("1549A966", element("2AD7B1", 1_000_000))
    return head + element("18538067", info + element("1654AE6B", track) + clusters)


def id3_of(n_frames: int, frame_bytes: int = 15_000_000) -> bytes:
    """MP3 with an ID3 tag whose frames are compressed: each a thousandth of what it becomes."""
    data = struct.pack(">I", frame_bytes) + zlib.compress(b"a\0" + bytes(frame_bytes - 2), 9)
    frames = (b"PRIV" + struct.pack(">I", len(data)) + b"\0\x80" + data) * n_frames
    size = bytes((len(frames) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frames + encode(tone(1.0), container="mp3", codec="libmp3lame")


def no_data_frames(n_frames: int) -> bytes:
    """AMR of frames that say that there is nothing: each is a packet that fails."""
    return b"#!AMR\n" + b"\x7c" * n_frames


def script_tags(n_tags: int) -> bytes:
    """FLV of nothing but script tags, and a second of sound."""
    sound = encode(tone(1.0, 44_100), 44_100, "flv", "libmp3lame")
    body = b"\x02\x00\x01x\x05"  # a string, and null
    tag = b"\x12" + struct.pack(">I", len(body))[1:] + bytes(7) + body + struct.pack(">I", 11 + len(body))
    return sound[:13] + tag * n_tags + sound[13:]


def png(side: int) -> bytes:
    """A picture of one colour: a few hundred bytes for each of its megabytes."""
    rows = (b"\0" + bytes(3 * side)) * side

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def flac_with_pictures(picture: bytes, n: int) -> bytes:
    """FLAC with cover pictures of different kinds."""
    sound = encode(tone(1.0), container="flac", codec="flac")
    blocks = b""
    for kind in range(n):
        data = struct.pack(">I", kind + 3) + _sized(b"image/png") + _sized(b"") + bytes(16) + _sized(picture)
        blocks += b"\x06" + struct.pack(">I", len(data))[1:] + data
    at = 8 + 34
    return sound[:4] + bytes([sound[4] & 0x7F]) + sound[5:at] + blocks + sound[at:]


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def mp3_with_pictures(picture: bytes, n: int) -> bytes:
    """MP3 with an ID3 tag that has cover pictures."""
    frames = b""
    for kind in range(n):
        data = b"\0image/png\0" + bytes([kind + 3, 0]) + picture
        frames += b"APIC" + struct.pack(">I", len(data)) + b"\0\0" + data
    size = len(frames)
    spread = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + spread + frames + encode(tone(1.0), container="mp3", codec="libmp3lame")


def m4a_with_pictures(picture: bytes, n: int) -> bytes:
    """M4A with cover pictures."""
    covers = b"".join(_box(b"data", struct.pack(">II", 14, 0) + picture) for _ in range(n))
    handler = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    meta = _box(b"udta", _box(b"meta", bytes(4) + handler + _box(b"ilst", _box(b"covr", covers))))
    return _with_tables(encode(tone(1.0), container="ipod", codec="aac"), {}, more=meta)


def film_of(picture: bytes, n: int) -> bytes:
    """AVI with films of one PNG picture each beside the sound."""
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as file:
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        films = []
        for _ in range(n):
            film = file.add_stream("png", rate=1)
            film.width = film.height = 16
            film.pix_fmt = "rgb24"
            films.append(film)
        file.start_encoding()
        for film in films:
            file.mux(_packet(film, picture, 0))
        file.mux(_packet(sound, tone(1.0).astype("<i2").tobytes(), 0))
    return out.getvalue()


def without_length(flac: bytes) -> bytes:
    """FLAC whose header does not know how many samples there are, as that of a recording into a pipe."""
    at = 8 + 13  # the last four bits of this byte, and four bytes
    return flac[:at] + bytes([flac[at] & 0xF0]) + bytes(4) + flac[at + 5 :]


def table_names(n_bytes: int, name: bytes = b"stts") -> bytes:
    """A box to put behind an MP4: the name of a table again and again."""
    record = name + bytes(8)
    return _box(b"free", record * (n_bytes // len(record)))


def repeated_chunk(seconds: float, times: int, samples: np.ndarray | None = None) -> bytes:
    """A MOV of mu-law whose chunks are all the same stretch of the file."""
    sound = tone(seconds, 8000) if samples is None else samples
    n = len(sound)
    data = encode(sound, 8000, "mov", "pcm_mulaw")
    at = data.index(b"stco") + 12
    offset = data[at : at + 4]
    head = struct.pack(">I", 0)
    return _with_tables(
        data,
        {
            b"stts": head + struct.pack(">III", 1, n * times, 1),
            b"stsz": head + struct.pack(">II", 1, n * times),
            b"stsc": head + struct.pack(">IIII", 1, 1, n, 1),
            b"stco": head + struct.pack(">I", times) + offset * times,
            b"edts": b"",
        },
        durations=n * times,
    )


def long_m4a(hours: float, rate: int = 48_000) -> bytes:
    """A whole M4A of silence, of any length, as muxers write it: every packet of AAC has its place."""
    data = encode(np.zeros(2 * rate, np.float32), rate, "ipod", "aac")
    with av.open(io.BytesIO(data)) as container:
        packets = {packet.size: bytes(packet) for packet in container.demux() if packet.size}
    (size, packet), (other_size, other) = (*packets.items(), *packets.items())[:2]
    in_chunk = 22  # packets, an even number; half a second
    n_chunks = int(hours * 3600 * rate / 1024 / in_chunk)
    n = n_chunks * in_chunk
    chunk = (packet + other) * (in_chunk // 2)
    at = data.index(b"mdat") - 4
    offsets = (at + 8 + len(chunk) * np.arange(n_chunks)).astype(">u4")
    end = data.rindex(b"moov") - 4
    head = struct.pack(">I", 0)
    (timescale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)  # of edit lists
    duration = int(n * 1024 * timescale / rate)
    whole = data[:at] + _box(b"mdat", chunk * n_chunks) + data[end:]
    return _with_tables(
        whole,
        {
            b"stts": head + struct.pack(">III", 1, n, 1024),
            b"stsz": head + struct.pack(">II", 0, n) + struct.pack(">II", size, other_size) * (n // 2),
            b"stsc": head + struct.pack(">IIII", 1, 1, in_chunk, 1),
            b"stco": head + struct.pack(">I", n_chunks) + offsets.tobytes(),
            b"edts": _box(b"elst", head + struct.pack(">IIiI", 1, duration, 1024, 1 << 16)),
        },
        durations=n * 1024,
    )


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def _with_tables(mp4: bytes, tables: dict[bytes, bytes], *, durations: int = 0, more: bytes = b"") -> bytes:
    """Replace boxes of an MP4 whose moov is the last box."""

    def walk(data: bytes) -> bytes:
        made, at = b"", 0
        while at < len(data):
            size, kind = struct.unpack(">I4s", data[at : at + 8])
            body = data[at + 8 : at + size]
            if kind in _PARENTS:
                body = walk(body) + (more if kind == b"moov" else b"")
            elif kind in tables:
                body = tables[kind]
            elif kind == b"mdhd" and durations:
                body = body[:16] + struct.pack(">I", durations) + body[20:]
            if body or kind not in tables:
                made += _box(kind, body)
            at += size
        return made

    at = mp4.rindex(b"moov") - 4
    return mp4[:at] + walk(mp4[at:])


PICTURED: dict[str, Callable[[bytes, int], bytes]] = {
    "flac": flac_with_pictures,
    "mp3": mp3_with_pictures,
    "m4a": m4a_with_pictures,
    "avi": film_of,
}
