"""Samples and names that no client sends by accident: any value gives a result or an error of ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.audio_files import wav_bytes
from whisper_server.core.config import Settings
from whisper_server.core.errors import InvalidAudio, ModelNotFound
from whisper_server.core.types import SAMPLE_RATE, WINDOW_FRAMES
from whisper_server.services.audio.loudness import MAX_GAIN, TARGET_PEAK, Meter, normalised
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.speech import vad, windows
from whisper_server.services.speech.log_mel import log_mel

PROCESSOR = AudioProcessor(1 << 24, 60)
EDGES = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf")]
SAMPLE = st.one_of(st.sampled_from(EDGES), st.floats(width=32), st.floats(-1, 1, width=32))
# A few values, repeated and shifted, so that audio is long enough without a million drawn numbers.
PATTERN = st.lists(SAMPLE, min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(PATTERN, st.sampled_from([1, 2, 159, 1599, 1600, 1601, 16_000, 40_000]))
def test_any_floats_are_finite_audio_or_too_short(pattern: list[float], n_samples: int) -> None:
    """Through decoding, gain, voice detection, windows and spectrograms."""
    data = wav_bytes(np.resize(np.array(pattern, "<f4"), n_samples).tobytes(), bits=32, tag=3)
    if n_samples < 0.1 * SAMPLE_RATE:
        with pytest.raises(InvalidAudio, match="too short"), PROCESSOR.open(data) as stream:
            list(stream.blocks())
        return
    with PROCESSOR.open(data) as stream:
        blocks = list(stream.blocks())
        levels = stream.levels()
    samples = np.concatenate(blocks)
    assert len(samples) == n_samples
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert not np.isnan([levels.peak_dbfs, levels.rms_dbfs]).any()
    for found in (vad.spans(blocks), vad.fixed(blocks)):
        for window in windows.pack(found, 80):
            assert window is None or np.isfinite(window.mel).all()


FINITE = st.floats(-(2.0**127), 2.0**127, width=32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FINITE, min_size=1, max_size=30), min_size=1, max_size=9))
def test_any_finite_blocks_are_normalised(values: list[list[float]]) -> None:
    source = [np.array(block, np.float32) for block in values]
    meter = Meter()
    for block in source:
        meter.add(block)
    assert not np.isnan([meter.levels().peak_dbfs, meter.levels().rms_dbfs]).any()
    result = list(normalised(block.copy() for block in source))
    assert [len(block) for block in result] == [len(block) for block in source]
    for before, after in zip(source, result, strict=True):
        assert np.isfinite(after).all()
        assert np.abs(after).max() <= TARGET_PEAK * 1.0001
        assert (np.abs(after) <= np.abs(before.astype(np.float64)) * MAX_GAIN * 1.0001 + 1e-37).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40),
    st.sampled_from([1, 2, 159, 160, 161, 400, 3000, 480_000]),
)
def test_any_samples_have_a_finite_spectrogram(pattern: list[float], n_samples: int) -> None:
    mel = log_mel(np.resize(np.array(pattern, np.float32), n_samples), 80)
    assert mel.shape == (80, WINDOW_FRAMES)
    assert np.isfinite(mel).all()


# Model names.

CATALOG = Catalog(Settings(_env_file=None))
TRAPS = [
    *(
        "../..",
        "..\\..",
        "/etc/passwd",
        "C:\\Windows",
        "c:",
        "\\\\server\\share",
        "file:///etc",
        "~root",
        ".",
    ),
    *("a\0b", "CON", "whisper-1\0", "whisper-1/..", "whisper-1/", " whisper-1", "openai/whisper-1", "%2e%2e"),
]
NAMES = st.one_of(
    st.sampled_from(TRAPS),
    st.text(max_size=60),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Cf"]), min_size=1, max_size=10),
    st.builds(lambda part, n: part * n, st.sampled_from(["x", "../", "\u202e", "𝄞"]), st.integers(1, 4000)),
)


@settings(max_examples=400, deadline=None)
@given(NAMES)
def test_any_model_name_is_known_or_a_short_404(name: str) -> None:
    try:
        found = CATALOG.resolve(name)
    except ModelNotFound as caught:
        error = caught
    else:
        assert found.name.startswith("whisper-")
        return
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert len(error.message) < 700
    assert error.message.isprintable()
    error.message.encode("utf-8")
