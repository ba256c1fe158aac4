"""Where a mix cancels, its loudest channel is heard; every other recording is the mix it always was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.audio_files import clips, encode
from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.audio.decoder import LibavDecoder
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio.downmix import FADE_SAMPLES, STRETCH_SAMPLES, Downmix
from whisper_server.services.audio_processor import AudioProcessor

SPEECH = np.concatenate([clip.samples() for clip in clips()[:4]])
OTHER = np.concatenate([clip.samples() for clip in clips()[4:8]])
N = min(len(SPEECH), len(OTHER))
SPEECH, OTHER = SPEECH[:N], OTHER[:N]
NOISE = np.random.default_rng(4).standard_normal(N).astype(np.float32)


@pytest.fixture(params=["here", "in a process"])
def processor(request: pytest.FixtureRequest) -> Iterator[AudioProcessor]:
    pool = DecoderProcesses(1)
    yield AudioProcessor(32 << 20, 600, LibavDecoder if request.param == "here" else pool.open)
    pool.close()


def mixed(left: np.ndarray, right: np.ndarray, size: int = 1 << 20) -> np.ndarray:
    """Mix float32 [n] and [n], cut into pieces of this size."""
    return mixed_by([0.5, 0.5], left, right, size=size)


def mixed_by(gains: list[float], *channels: np.ndarray, size: int = 1 << 20) -> np.ndarray:
    """Mix float32 [n] each, cut into pieces of this size."""
    mix = sum(gain * channel for gain, channel in zip(gains, channels, strict=True))
    planes = np.stack([mix, *channels]).astype(np.float32)
    downmix = Downmix(np.array(gains, np.float32))
    parts = [
        part for at in range(0, planes.shape[1], size) for part in downmix.add(planes[:, at : at + size])
    ]
    return np.concatenate([*parts, *downmix.finish()])


def likeness(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the correlation of two recordings, whatever their sign and gain."""
    return abs(float(found @ wanted) / float(np.linalg.norm(found) * np.linalg.norm(wanted)))


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_f32le"), ("flac", "flac"), ("ogg", "libopus")])
def test_sides_of_opposite_sign_are_heard(
    processor: AudioProcessor, container: str, codec: str, rate: int
) -> None:
    if codec == "libopus" and rate == 44_100:
        pytest.skip("opus knows no such rate")
    sides = np.stack([SPEECH, -SPEECH])
    with processor.open(encode(sides, rate, container, codec)) as stream:
        stereo = np.concatenate(list(stream.blocks()))
    with processor.open(encode(sides[0], rate, container, codec)) as stream:
        mono = np.concatenate(list(stream.blocks()))
    assert len(stereo) == len(mono)
    assert likeness(stereo, mono) > 0.99


@pytest.mark.parametrize("gain", [-1.0, -0.9, -0.8, -1.2])
@pytest.mark.parametrize("noise", [0.0, 0.003, 0.02])
def test_sides_that_cancel_but_for_a_difference(gain: float, noise: float) -> None:
    right = (gain * SPEECH + noise * NOISE).astype(np.float32)
    assert likeness(mixed(SPEECH, right), SPEECH) > 0.9


def test_the_louder_side_is_heard_and_sides_do_not_take_turns() -> None:
    np.testing.assert_array_equal(mixed(SPEECH, -0.5 * SPEECH)[FADE_SAMPLES:], SPEECH[FADE_SAMPLES:])
    np.testing.assert_array_equal(mixed(-0.5 * SPEECH, SPEECH)[FADE_SAMPLES:], -SPEECH[FADE_SAMPLES:])
    waver = (1 - 0.2 * np.sign(np.sin(np.arange(N) / 9000))).astype(np.float32)
    np.testing.assert_array_equal(mixed(SPEECH, -waver * SPEECH)[FADE_SAMPLES:], SPEECH[FADE_SAMPLES:])


ORDINARY = {
    "the same on both sides": (SPEECH, SPEECH),
    "one side silent": (SPEECH, np.zeros(N, np.float32)),
    "a speaker per side": (SPEECH, OTHER),
    "a room": (SPEECH + 0.3 * np.roll(SPEECH, 211), SPEECH + 0.3 * np.roll(SPEECH, 173)),
    "noise of two sources": (NOISE / 8, np.roll(NOISE, 5000) / 8),
    "silence": (np.zeros(N, np.float32), np.zeros(N, np.float32)),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_stereo_is_the_mix_bit_for_bit(kind: str) -> None:
    left, right = ORDINARY[kind]
    np.testing.assert_array_equal(mixed(left, right), ((left + right) / 2).astype(np.float32))


SURROUND = (0.207, 0.207, 0.293, 0.0, 0.146, 0.146)  # about what libswresample does with 5.1: no bass


def test_of_any_number_of_channels_the_loudest_is_heard_where_the_mix_cancels() -> None:
    quarter = [0.25] * 4
    four = (0.5 * SPEECH, -SPEECH, 0.9 * SPEECH, -0.4 * SPEECH)
    np.testing.assert_array_equal(
        np.abs(mixed_by(quarter, *four))[FADE_SAMPLES:], np.abs(SPEECH)[FADE_SAMPLES:]
    )
    nothing = np.zeros(N, np.float32)
    behind = mixed_by(list(SURROUND), nothing, nothing, nothing, 2 * NOISE, SPEECH, -SPEECH)
    assert likeness(behind, SPEECH) > 0.99


def test_ordinary_surround_is_the_mix() -> None:
    music, boom = 0.2 * NOISE, 4 * np.roll(NOISE, 999)
    film = (music, np.roll(music, 99), SPEECH, boom, np.roll(music, 500), np.roll(music, 700))
    mix = sum(gain * channel for gain, channel in zip(SURROUND, film, strict=True))
    np.testing.assert_array_equal(mixed_by(list(SURROUND), *film), np.asarray(mix, np.float32))


def test_sound_in_the_bass_channel_alone_stays_unheard() -> None:
    nothing = np.zeros(N, np.float32)
    assert not mixed_by(list(SURROUND), nothing, nothing, nothing, NOISE, nothing, nothing).any()


@pytest.mark.parametrize(
    ("container", "codec"), [("wav", "pcm_s16le"), ("matroska", "aac"), ("flac", "flac")]
)
def test_a_film_whose_surround_channels_cancel_is_heard(
    processor: AudioProcessor, container: str, codec: str
) -> None:
    channels = np.zeros((6, N), np.float32)
    channels[4], channels[5] = 0.5 * SPEECH, -0.5 * SPEECH
    with processor.open(encode(channels, 48_000, container, codec)) as stream:
        found = np.concatenate(list(stream.blocks()))
    with processor.open(encode(channels[4], 48_000, container, codec)) as stream:
        wanted = np.concatenate(list(stream.blocks()))
    n = min(len(found), len(wanted))
    assert likeness(found[:n], wanted[:n]) > 0.95
    with processor.open(encode(np.abs(channels), 48_000, container, codec)) as stream:
        pieces = list(stream._opened.decoder.pieces("mix"))
    assert {piece.n_channels for piece in pieces} == {7}


def test_gains_are_those_of_the_mix() -> None:
    channels = np.zeros((6, N), np.float32)
    for each in range(6):
        channels[each, each * 8000 : (each + 1) * 8000] = 0.5
    with AudioProcessor(32 << 20, 600).open(encode(channels, 16_000, "wav", "pcm_f32le")) as stream:
        (first, *_) = stream._opened.decoder.pieces("mix")
    samples = np.frombuffer(first.data, np.float32)
    gains, n = samples[-6:], (len(samples) - 6) // 7
    for each in range(n // 8000):
        assert abs(samples[each * 8000 + 4000] - 0.5 * gains[each]) < 1e-3
    assert gains[3] == 0
    assert abs(gains.sum() - 1) < 1e-3


def test_a_file_of_ordinary_stereo_is_what_libswresample_makes_of_it(processor: AudioProcessor) -> None:
    data = encode(0.4 * np.stack([SPEECH, OTHER]), 44_100, "flac", "flac")
    with processor.open(data) as stream:
        pieces = list(stream._opened.decoder.pieces("mix"))
    assert {piece.n_channels for piece in pieces} == {3}
    mixes = [np.frombuffer(piece.data, np.float32)[: len(piece.data) // 12] for piece in pieces]
    with processor.open(data) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream._chunks())), np.concatenate(mixes))


def test_speech_that_cancels_for_a_while_is_heard_without_a_click() -> None:
    at = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    left = (0.5 * np.sin(2 * np.pi * 220 * at)).astype(np.float32)
    right = np.where((at > 2.1) & (at < 4.3), -left, left)
    found = mixed(left, right.astype(np.float32))
    loud = np.sqrt(np.square(found[: len(found) // 800 * 800]).reshape(-1, 800).mean(axis=1))
    assert loud[:40].min() > 0.3
    assert loud[50:80].min() > 0.3  # from the first whole stretch on
    steepest = np.abs(np.diff(left)).max()
    assert np.abs(np.diff(found[42 * SAMPLE_RATE // 20 + 1 : 4 * SAMPLE_RATE])).max() < 1.5 * steepest


def test_who_is_heard_only_in_the_difference_is_heard_in_the_pauses_of_the_other() -> None:
    first, second = SPEECH.copy(), OTHER.copy()
    first[N // 2 :] = 0
    second[: N // 2] = 0
    found = mixed(first + 0.5 * second, first - 0.5 * second)
    assert likeness(found[N // 2 :], second[N // 2 :]) > 0.99
    np.testing.assert_array_equal(found[: N // 2 - STRETCH_SAMPLES], first[: N // 2 - STRETCH_SAMPLES])


def test_silence_does_not_end_what_was_chosen() -> None:
    left = SPEECH.copy()
    left[2 * STRETCH_SAMPLES : 5 * STRETCH_SAMPLES] = 0
    np.testing.assert_array_equal(mixed(left, -left)[FADE_SAMPLES:], left[FADE_SAMPLES:])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * STRETCH_SAMPLES), st.sampled_from([-1.0, -0.6, 0.0, 1.0]))
def test_the_result_does_not_depend_on_the_pieces(size: int, gain: float) -> None:
    n = 40_000
    left = SPEECH[:n]
    right = np.where(np.arange(n) < n // 2, gain * left, OTHER[:n]).astype(np.float32)
    np.testing.assert_array_equal(mixed(left, right, max(size, 50)), mixed(left, right))
