"""OpenAI's own weights, and recordings, for tests marked `real`; neither comes with the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = "WHISPER_REAL_MODELS"
RECORDINGS = "WHISPER_REAL_AUDIO"


def real_model(name: str) -> Path:
    """Return the folder of a model, as `base`, in Hugging Face format; skip the test where there is none."""
    folder = Path(os.environ.get(FOLDER) or ".") / name
    if not os.environ.get(FOLDER) or not folder.is_dir():
        pytest.skip(f"{FOLDER} names no folder that has {name}")
    return folder


def real_recording(name: str) -> Path:
    """Return a recording; skip the test where it is not at hand."""
    path = Path(os.environ.get(RECORDINGS) or ".") / name
    if not os.environ.get(RECORDINGS) or not path.is_file():
        pytest.skip(f"{RECORDINGS} names no folder that has {name}")
    return path
