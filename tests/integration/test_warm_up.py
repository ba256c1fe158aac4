"""What a server takes before any recording comes, as it could not be had while uploads hold the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import server_environment
from whisper_server.api.app import create_app
from whisper_server.core.config import Settings
from whisper_server.core.errors import EngineFailure
from whisper_server.services.speech import silero

PROGRAM = """
import asyncio, sys
from whisper_server.api.app import create_app
from whisper_server.core.config import load_settings

async def live():
    app = create_app(load_settings())
    async with app.router.lifespan_context(app):
        print("onnxruntime" in sys.modules, flush=True)

assert "onnxruntime" not in sys.modules
asyncio.run(live())
"""


@pytest.mark.parametrize("use_vad", ["true", "false"])
def test_voice_detection_is_loaded_where_it_is_wanted(tmp_path: Path, use_vad: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=server_environment(WHISPER_VAD=use_vad),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.strip() == str(use_vad == "true")


async def test_without_voice_detection_that_is_wanted_a_server_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silero._load_session.cache_clear()
    monkeypatch.setattr(silero, "MODEL_FILE", tmp_path / "silero_vad.onnx")
    app = create_app(Settings(engine="fake", cache_dir=tmp_path))
    with pytest.raises(EngineFailure, match="WHISPER_VAD=false"):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")
