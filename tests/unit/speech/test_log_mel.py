"""The log-mel spectrogram equals its definition, to float rounding."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tests.support import reference_mel
from tests.support.audio_files import clips, tone
from whisper_server.core.types import WINDOW_FRAMES, WINDOW_SAMPLES
from whisper_server.services.speech.log_mel import log_mel, mel_filters

# In openai/whisper's mel_filters.npz: the sum of all filters, the highest value of the first and of the last.
PUBLISHED = {80: [1.999024, 0.02486259, 0.003164712], 128: [3.190986, 0.01237399, 0.005041602]}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return np.resize(np.concatenate([clip.samples() for clip in clips()[:12]]), WINDOW_SAMPLES)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize(
    "n_samples", [1, 159, 160, 199, 200, 201, 400, 16_000, 99_999, 479_799, 479_800, 479_999, 480_000]
)
def test_equals_definition_at_every_boundary(speech: np.ndarray, n_mels: int, n_samples: int) -> None:
    part = speech[20_000 : 20_000 + n_samples] if n_samples < 400_000 else speech[:n_samples]
    mel = log_mel(part, n_mels)
    assert mel.shape == (n_mels, WINDOW_FRAMES)
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, reference_mel.log_mel(part, n_mels), atol=1e-5)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_every_clip_equals_definition(n_mels: int) -> None:
    for clip in clips()[::6]:
        samples = clip.samples()
        np.testing.assert_allclose(
            log_mel(samples, n_mels), reference_mel.log_mel(samples, n_mels), atol=1e-5
        )


@pytest.mark.parametrize("samples", [np.zeros(5000, np.float32), tone(1.0), np.full(3000, 0.5, np.float32)])
def test_silence_tone_and_constant(samples: np.ndarray) -> None:
    np.testing.assert_allclose(log_mel(samples, 80), reference_mel.log_mel(samples, 80), atol=1e-5)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_equal_their_definition(n_mels: int) -> None:
    np.testing.assert_allclose(mel_filters(n_mels), reference_mel.filters(n_mels), atol=1e-8)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_sum_to_those_of_the_published_file(n_mels: int) -> None:
    filters = mel_filters(n_mels).astype(np.float64)
    assert [filters.sum(), filters[0].max(), filters[-1].max()] == pytest.approx(PUBLISHED[n_mels], rel=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("n_mels", [80, 128])
def test_equals_transformers(speech: np.ndarray, n_mels: int) -> None:
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    for samples in (speech, speech[:99_999]):
        expected = extractor(samples, sampling_rate=16_000, return_tensors="np").input_features[0]
        # With PyTorch transformers computes in float32: up to 5e-5 off. The definition, in float64, is above.
        np.testing.assert_allclose(log_mel(samples, n_mels), expected, atol=1e-4)


def test_filters_are_shared_and_read_only() -> None:
    assert mel_filters(80) is mel_filters(80)
    with pytest.raises(ValueError, match="read-only"):
        mel_filters(80)[0, 0] = 1


@pytest.mark.parametrize("n_samples", [0, WINDOW_SAMPLES + 1])
def test_refuses_what_is_no_window(n_samples: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        log_mel(np.zeros(n_samples, np.float32), 80)


def test_no_thread_is_left_spinning() -> None:
    log_mel(tone(1.0), 80)
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
    assert [pool["num_threads"] for pool in pools] == [1] * len(pools)
