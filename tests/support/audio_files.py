"""Makes audio files of every format, and broken ones, for tests; nothing is written to disk."""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from whisper_server.services.audio_processor import AudioProcessor

CLIP_S = 2.5  # of sound in a large file, at least
SAMPLES = Path(__file__).parents[2] / "models" / "nano-whisper" / "samples"


def encode(
    samples: np.ndarray,
    rate: int = 16_000,
    container: str = "wav",
    codec: str = "pcm_s16le",
    channels: int = 1,
    *,
    options: dict[str, str] | None = None,
) -> bytes:
    """Encode float32 [n] (the same in every channel) or [channels, n], -1..1, given at `rate`."""
    if samples.ndim == 1:
        samples = np.tile(samples, (channels, 1))
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
        stream.layout = layout
        wanted = stream.codec_context.codec.audio_formats
        fmt = wanted[0].name if wanted else "fltp"
        convert = av.AudioResampler(format=fmt, layout=layout, rate=rate)
        size = stream.codec_context.frame_size or 4096
        fifo = av.AudioFifo()

        def send(frame: av.AudioFrame | None, *, last: bool = False) -> None:
            nonlocal size
            size = stream.codec_context.frame_size or size
            fifo.write(frame) if frame is not None else None
            while (part := fifo.read(size, partial=last)) is not None:
                file.mux(stream.encode(part))
                size = stream.codec_context.frame_size or size

        stream.codec_context.open()
        for at in range(0, samples.shape[1], 1 << 16):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[:, at : at + (1 << 16)], dtype=np.float32), "fltp", layout
            )
            frame.sample_rate = rate
            frame.pts = at
            for converted in convert.resample(frame):
                send(converted)
        for converted in convert.resample(None):
            send(converted)
        send(None, last=True)
        file.mux(stream.encode(None))
    return out.getvalue()


def adaptive_multi_rate(container: str) -> bytes:
    """Return half a second of 440 Hz, 8 kHz mono, in "amr" or "3gp": PyAV 19 reads AMR but writes none."""
    return (Path(__file__).parent / "media" / f"tone.{container}").read_bytes()


def video(*, container: str = "mp4", codec: str = "mpeg4", sound: np.ndarray | None = None) -> bytes:
    """A second of grey film, with or without sound (16 kHz mono)."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        film = file.add_stream(codec, rate=10)
        film.width = film.height = 64
        film.pix_fmt = "yuv420p"
        track = file.add_stream("aac", rate=16_000, layout="mono") if sound is not None else None
        for at in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts = at
            file.mux(film.encode(frame))
        file.mux(film.encode(None))
        if track is not None:
            for at in range(0, len(sound) - 1023, 1024):
                part = av.AudioFrame.from_ndarray(sound[None, at : at + 1024], "fltp", "mono")
                part.sample_rate, part.pts = 16_000, at
                file.mux(track.encode(part))
            file.mux(track.encode(None))
    return out.getvalue()


@dataclass(frozen=True)
class Sound:
    """An audio track of a film: when it starts, and where its timestamps jump."""

    samples: np.ndarray  # float32 [n] or [channels, n], 48 kHz
    start_s: float = 0.0
    language: str = ""
    is_default: bool = False
    jumps: tuple[tuple[float, float], ...] = ()  # (seconds of sound before it, seconds that are skipped)


def film(
    *sounds: Sound,
    container: str = "matroska",
    codec: str = "aac",
    picture_s: float = 1.0,
    start_s: float = 0.0,
) -> bytes:
    """Sound tracks beside `picture_s` seconds of film, 0 for none; all timestamps begin at `start_s`."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        pictures = {"mpegts": "mpeg2video", "mpeg": "mpeg2video", "flv": "flv"}
        picture = file.add_stream(pictures.get(container, "mpeg4"), rate=25) if picture_s else None
        if picture is not None:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        tracks = []
        for sound in sounds:
            layout = "mono" if sound.samples.ndim == 1 else "stereo"
            track = file.add_stream(codec, rate=48_000, layout=layout)
            track.disposition = (
                av.stream.Disposition.default if sound.is_default else av.stream.Disposition(0)
            )
            if sound.language:
                track.metadata["language"] = sound.language
            tracks.append(track)
        packets = [] if picture is None else _picture(picture, picture_s)
        for track, sound in zip(tracks, sounds, strict=True):
            packets += _sound(track, sound)
        file.start_encoding()
        for _, packet in sorted(packets, key=lambda each: each[0]):
            offset = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            file.mux(packet)
    return out.getvalue()


def _picture(stream: av.VideoStream, seconds: float) -> list[tuple[float, av.Packet]]:
    """Return grey pictures, each with its time in seconds."""
    packets = []
    for at in range(int(25 * seconds)):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
        frame.pts = at
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return [(float(packet.dts * packet.time_base), packet) for packet in packets]


def _sound(stream: av.AudioStream, sound: Sound) -> list[tuple[float, av.Packet]]:
    """Return the packets of a track, each with its time in seconds; those behind a jump are later by it."""
    samples = np.atleast_2d(sound.samples)
    fmt = stream.codec_context.codec.audio_formats[0].name
    convert = av.AudioResampler(format=fmt, layout=stream.layout.name, rate=48_000, frame_size=1024)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", stream.layout.name)
    frame.sample_rate, frame.pts = 48_000, 0
    packets = [
        packet
        for part in (*convert.resample(frame), *convert.resample(None))
        for packet in stream.encode(part)
    ]
    packets += stream.encode(None)
    found = []
    for packet in packets:
        heard_s = float(packet.pts * packet.time_base)
        later_s = sound.start_s + sum(skipped for before, skipped in sound.jumps if heard_s >= before)
        later = round(later_s / packet.time_base)
        packet.pts, packet.dts = packet.pts + later, packet.dts + later
        found.append((heard_s + later_s, packet))
    return found


def wav_bytes(
    data: bytes,
    *,
    rate: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    data_size: int | None = None,
    block_align: int | None = None,
) -> bytes:
    """A WAV file field by field, so that every field may lie."""
    align = channels * bits // 8 if block_align is None else block_align
    fields = (tag, channels, rate, rate * align, align, bits)
    fmt = struct.pack("<HHIIHH", *(f & (0xFFFFFFFF if i in (2, 3) else 0xFFFF) for i, f in enumerate(fields)))
    size = (len(data) if data_size is None else data_size) & 0xFFFFFFFF
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def large_wav(n_bytes: int) -> bytes:
    """A clip with sound, for which the device is asked, and a chunk that no decoder wants."""
    return (
        wav_bytes((tone(CLIP_S) * 32_000).astype("<i2").tobytes())
        + b"junk"
        + struct.pack("<I", n_bytes)
        + bytes(n_bytes)
    )


def tone(seconds: float, rate: int = 16_000, hz: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * hz * at)).astype(np.float32)


@dataclass(frozen=True)
class Clip:
    path: Path
    text: str
    words: tuple[tuple[str, float, float], ...]

    def samples(self) -> np.ndarray:
        """float32 [n], 16 kHz mono, as libav decodes it and without our own code."""
        with av.open(str(self.path)) as file:
            parts = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
        return np.concatenate(parts).astype(np.float32) / 32768


def samples_of(data: bytes) -> np.ndarray:
    """float32 [n], 16 kHz mono, as the server reads a file of any format."""
    with AudioProcessor(max_bytes=1 << 30, max_seconds=3600).open(data) as stream:
        return np.concatenate(list(stream.blocks()))


def clips() -> list[Clip]:
    entries = json.loads((SAMPLES / "clips.json").read_text(encoding="utf-8"))
    return [
        Clip(SAMPLES / entry["file"], entry["text"], tuple((w, a, b) for w, a, b in entry["words"]))
        for entry in entries
    ]


def noises(seconds: float, seed: int = 7) -> dict[str, np.ndarray]:
    """What is not speech: digital zero, white and pink noise loud and soft, hum, a tone, music."""
    rng = np.random.default_rng(seed)
    n = int(seconds * 16_000)
    at = np.arange(n) / 16_000
    white = rng.standard_normal(n)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), n)
    pink /= np.abs(pink).max()
    hum = sum(np.sin(2 * np.pi * 50 * k * at) / k for k in (1, 2, 3))
    # A beat and chords that change every second, with the overtones of strings.
    chords = ((220, 277, 330), (196, 247, 294), (175, 220, 262), (165, 208, 247))
    music = np.zeros(n)
    for second in range(math.ceil(seconds)):
        part = slice(second * 16_000, min(n, (second + 1) * 16_000))
        for hz in chords[second % 4]:
            music[part] += sum(np.sin(2 * np.pi * hz * k * at[part]) / k**2 for k in range(1, 8))
    music *= 0.6 + 0.4 * np.exp(-8 * (at % 0.5))
    kinds = {
        "zero": np.zeros(n),
        "music": 0.5 * music / max(1e-9, np.abs(music).max()),
        "white": 0.9 * white / np.abs(white).max(),
        "soft white": 1e-3 * white,
        "pink": 0.9 * pink,
        "soft pink": 1e-2 * pink,
        "hum": 0.4 * hum,
        "tone": 0.5 * np.sin(2 * np.pi * 440 * at),
    }
    return {name: kind.astype(np.float32) for name, kind in kinds.items()}


M3U8 = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{url}'\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT10S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"
SCRIPTS = {"m3u8": M3U8, "concat": CONCAT, "dash": DASH}

NOT_MEDIA = {
    "text": b"Dear Sir or Madam, " * 50,
    "json": b'{"a": [1, 2, 3]}' * 20,
    "html": b"<!doctype html><html><body>hello</body></html>" * 10,
    "srt": b"1\n00:00:00,000 --> 00:00:02,000\nhello\n\n" * 10,
    "vtt": b"WEBVTT\n\n00:00.000 --> 00:02.000\nhello\n\n" * 5,
    "ffmetadata": b";FFMETADATA1\ntitle=x\n",
    "png": bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d"
        "49444154789c63f8cfc0f01f00050001ff89993d1d0000000049454e44ae426082"
    ),
    "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "zip": b"PK\x03\x04" + bytes(26) + b"file.txt" + bytes(200),
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n" * 10,
    "zeros": bytes(4096),
    "one byte": b"x",
    "random": bytes(np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8)),
}


def with_dref(m4a: bytes, url: str) -> bytes:
    """Make an M4A whose samples lie in another file: its data reference says where."""
    old = b"\x00\x00\x00\x0curl \x00\x00\x00\x01"
    assert m4a.count(old) == 1
    # An `alis` entry, the kind that libav follows: fields of a Mac alias by width, then 2: the full path.
    path = url.encode()
    path += bytes(len(path) % 2)
    alias = bytes(10) + b"\x03abc" + bytes(24) + bytes(12) + b"\x01x" + bytes(62) + bytes(36)
    alias += struct.pack(">HH", 2, len(path)) + path + b"\xff\xff\x00\x00"
    entry = b"alis" + bytes(4) + alias
    return _replaced_in_box(m4a, old, struct.pack(">I", len(entry) + 4) + entry)


def _replaced_in_box(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace bytes of an MP4 whose moov is the last box, and mend the sizes of the boxes around."""
    at, growth = data.index(old), len(new) - len(old)
    mended = bytearray(data)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = data.rindex(name, 0, at) - 4
        mended[start : start + 4] = struct.pack(
            ">I", struct.unpack(">I", data[start : start + 4])[0] + growth
        )
    return bytes(mended[:at]) + new + bytes(mended[at + len(old) :])
