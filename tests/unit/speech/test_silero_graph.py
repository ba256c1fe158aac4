"""The graph that ships says what the published network says, and is the one that the tool makes."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.silero_golden import golden, probabilities, sounds
from tools import make_silero
from whisper_server.core.errors import Unavailable
from whisper_server.services.speech import silero
from whisper_server.services.speech.silero import Silero


@pytest.mark.parametrize("kind", list(golden()))
@pytest.mark.parametrize("block", [None, 512, 7_777, 100])
def test_says_what_the_published_network_says_whatever_the_blocks(kind: str, block: int | None) -> None:
    samples, model = sounds()[kind], Silero()
    size = block or len(samples)
    found = [p for at in range(0, len(samples), size) for p in model.probabilities(samples[at : at + size])]
    found += model.finish()
    np.testing.assert_allclose(found, golden()[kind], atol=1e-4)


def test_the_format_is_onnxs() -> None:
    onnx.checker.check_model(silero.MODEL_FILE.read_bytes(), full_check=True)


def test_is_what_the_tool_makes() -> None:
    assert hashlib.sha256(silero.MODEL_FILE.read_bytes()).hexdigest() == make_silero.MADE_SHA256
    assert make_silero.TARGET == silero.MODEL_FILE


def test_the_licence_is_beside_it() -> None:
    text = silero.MODEL_FILE.with_suffix(".LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in text
    assert "Silero Team" in text


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(silero, "MODEL_FILE", tmp_path / "silero_vad.onnx")
    with pytest.raises(silero.EngineFailure, match="WHISPER_VAD=false"):
        silero._load_session.__wrapped__()


@pytest.fixture
def wheel() -> Path:
    """Silero's own wheel, where the one who runs the tests has it."""
    if not (path := os.environ.get("SILERO_WHEEL")):
        pytest.skip("SILERO_WHEEL does not name silero_vad-6.2.3-py3-none-any.whl")
    return Path(path)


def test_is_made_again_byte_for_byte(wheel: Path) -> None:
    assert make_silero.made(make_silero.published(wheel)) == silero.MODEL_FILE.read_bytes()


def test_golden_numbers_are_those_of_the_published_network(wheel: Path) -> None:
    for kind, found in probabilities(make_silero.published(wheel)).items():
        np.testing.assert_allclose(found, golden()[kind], atol=1e-5)


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        make_silero._checked(b"another", make_silero.PUBLISHED_SHA256, "it")


def test_a_library_that_cannot_be_loaded_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own registries stay half full where there was no memory for its first import."""
    for name in ("session", "runtime"):
        monkeypatch.delitem(sys.modules, f"whisper_server.services.onnx.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unavailable, match="start the server again"):
        silero.session_of(silero.MODEL_FILE)
