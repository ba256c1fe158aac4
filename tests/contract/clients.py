"""What the tests of all clients share: the clients themselves, a key, audio as they send it."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import pytest

from tests.conftest import SAMPLES, Sample
from tests.support.audio_files import Clip, encode

KEY = "sk-contract"
NANO_NAME = "nano-whisper"


def client_package(name: str) -> Any:
    """Import a client, or skip the module; with CONTRACT_CLIENTS=required a missing one is a failure."""
    if os.environ.get("CONTRACT_CLIENTS") == "required":
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed: see requirements-contract.txt")


def wav_of(sample: Sample) -> bytes:
    """The same clip as a WAV file: what chat clients can send."""
    return encode(_samples_of(sample))


def stereo(left: Sample, right: Sample) -> bytes:
    """A WAV file with one speaker per channel, the second after the first."""
    first, second = (_samples_of(sample) for sample in (left, right))
    channels = np.zeros((2, len(first) + len(second)), np.float32)
    channels[0, : len(first)] = first
    channels[1, len(first) :] = second
    return encode(channels)


def _samples_of(sample: Sample) -> np.ndarray:
    return Clip(SAMPLES / sample.name, sample.text, ()).samples()
