"""Raw samples in pieces of any size become the samples that an upload of them would."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import pytest

from whisper_server.services.audio.pcm_converter import PcmConverter, PcmFormat
from whisper_server.services.audio_processor import AudioProcessor


def _tone(rate_hz: int, seconds: float = 1.5) -> bytes:
    times = np.arange(int(rate_hz * seconds)) / rate_hz
    return (np.sin(2 * np.pi * 440 * times) * 20_000).astype("<i2").tobytes()


def _streamed(data: bytes, form: PcmFormat, piece_bytes: int) -> np.ndarray:
    stream = PcmConverter(form)
    pieces = [stream.push(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes)]
    return np.concatenate([*pieces, stream.finish()])


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_pieces_sound_as_the_upload_does(rate_hz: int) -> None:
    data = _tone(rate_hz)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate_hz)
        written.writeframes(data)
    with AudioProcessor(1 << 30, 1e6).open(file.getvalue()) as upload:
        expected = np.concatenate(list(upload.planes()), axis=1)[0]

    heard = _streamed(data, PcmFormat("pcm16", rate_hz), 2 * rate_hz // 20)

    assert abs(len(heard) - len(expected)) <= 1
    n = min(len(heard), len(expected))
    np.testing.assert_allclose(heard[:n], expected[:n], atol=2e-4)


@pytest.mark.parametrize("piece_bytes", [1, 7, 2_400, 128_000])
def test_the_size_of_pieces_changes_nothing(piece_bytes: int) -> None:
    data = _tone(24_000, 0.2)
    form = PcmFormat("pcm16", 24_000)
    np.testing.assert_array_equal(_streamed(data, form, piece_bytes), _streamed(data, form, len(data)))


def test_a_piece_is_answered_at_once() -> None:
    stream = PcmConverter(PcmFormat("pcm16", 24_000))
    heard = sum(len(stream.push(_tone(24_000, 0.05))) for _ in range(10))
    assert heard >= 0.5 * 16_000 - 32


@pytest.mark.parametrize(("encoding", "codec"), [("mulaw", "pcm_mulaw"), ("alaw", "pcm_alaw")])
def test_g711_is_expanded_as_libav_does(encoding: str, codec: str) -> None:
    every_byte = bytes(range(256))
    context = av.CodecContext.create(codec, "r")
    context.sample_rate = 8_000
    context.layout = "mono"
    frames = context.decode(av.Packet(every_byte))
    expected = np.concatenate([frame.to_ndarray()[0] for frame in frames])

    # At 16 kHz nothing is resampled, so the samples are the table's.
    heard = PcmConverter(PcmFormat(encoding, 16_000)).push(every_byte)  # type: ignore[arg-type]

    np.testing.assert_array_equal((heard * 32_768).astype(np.int16), expected)
