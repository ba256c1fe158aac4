"""The filter bank is Kaldi's: tests/golden/fbank.json has three frames of kaldi-native-fbank 1.23.0."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from whisper_server.services.speakers.fbank import fbank

GOLDEN = Path(__file__).parents[2] / "golden" / "fbank.json"


def test_the_numbers_are_kaldis() -> None:
    t = np.arange(8000) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * (200 + 3000 * t) * t) + 0.05 * np.sin(2 * np.pi * 5001 * t)
    found = fbank((sound + 0.01 * np.cos(t * 77_777) + 0.01).astype(np.float32))
    assert found.shape == (48, 80)
    for frame, bins in json.loads(GOLDEN.read_text(encoding="utf-8")).items():
        np.testing.assert_allclose(found[int(frame)], bins, atol=2e-3)


def test_silence_has_numbers_too() -> None:
    assert (fbank(np.zeros(400, np.float32)) == 0).all()
