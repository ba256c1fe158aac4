"""OpenAI's own weights, for tests marked `real`; they are too large to come with the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = "WHISPER_REAL_MODELS"


def real_model(name: str) -> Path:
    """Return the folder of a model, as `base`, in Hugging Face format; skip the test where there is none."""
    folder = Path(os.environ.get(FOLDER) or ".") / name
    if not os.environ.get(FOLDER) or not folder.is_dir():
        pytest.skip(f"{FOLDER} names no folder that has {name}")
    return folder
