"""What the published network says, in tests/golden/silero.json: `python -m tests.support.silero_golden
WHEEL`.

WHEEL is the file that tools/make_silero.py takes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.support.audio_files import clips, noises
from whisper_server.services.speech.silero import CONTEXT_SAMPLES, FRAME_SAMPLES, STATE, frames, session_of

GOLDEN = Path(__file__).parents[1] / "golden" / "silero.json"


def sounds() -> dict[str, np.ndarray]:
    """float32 [n] each, none of whole frames."""
    speech = np.concatenate([clip.samples() for clip in clips()[:6]])[: 600 * FRAME_SAMPLES + 100]
    return {
        "speech": speech,
        "loud": np.sign(speech[:50_000]),
        "silence": np.zeros(16_000, np.float32),
        "noise": noises(3)["white"],
    }


def golden() -> dict[str, list[float]]:
    """One probability per frame of each sound."""
    expected: dict[str, list[float]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return expected


def probabilities(model: bytes) -> dict[str, list[float]]:
    """Run a network over each sound in one call, the last frame filled up with zeros."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model)
        session = session_of(path)
    state = {"h": np.zeros(STATE, np.float32), "c": np.zeros(STATE, np.float32)}
    found = {}
    for name, samples in sounds().items():
        padded = np.pad(samples, (CONTEXT_SAMPLES, -len(samples) % FRAME_SAMPLES))
        output = session.run(None, {"input": frames(padded), **state})[0]
        found[name] = [round(float(one), 6) for one in output]
    return found


if __name__ == "__main__":
    from tools.make_silero import published

    GOLDEN.write_text(json.dumps(probabilities(published(Path(sys.argv[1])))) + "\n", encoding="utf-8")
