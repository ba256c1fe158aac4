"""Samples -> speech probabilities: Silero VAD, run by onnxruntime.

Owns the model file (Silero VAD 6.2.3, rearranged by tools/make_silero.py), the session, and the state that
one file carries from block to block. Must not know what counts as speech.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_server.core.errors import EngineFailure
from whisper_server.core.types import VOICE_SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples

MODEL_FILE = Path(__file__).with_name("silero_vad.onnx")
FRAME_SAMPLES = VOICE_SAMPLES  # 512: the model knows no other size at 16 kHz
CONTEXT_SAMPLES = 64  # of the frame before, which the model wants in front of each frame
STATE = (1, 1, 128)  # the shape of the LSTM's h and of its c
RUN_FRAMES = 256  # 8 s of audio per call of the model: more is hardly faster


class Silero:
    """Speech probabilities of one file, one per 32 ms; carries the model's state from block to block."""

    def __init__(self) -> None:
        self._session = load_network()
        self._h = self._c = np.zeros(STATE, dtype=np.float32)
        # The context of the next frame, then the samples that do not fill a frame yet.
        self._rest: Samples = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)

    def probabilities(self, block: Samples) -> Iterator[float]:
        """Yield the probability of every frame that `block` completes."""
        padded = np.concatenate([self._rest, block])
        n_frames = (len(padded) - CONTEXT_SAMPLES) // FRAME_SAMPLES
        self._rest = padded[n_frames * FRAME_SAMPLES :].copy()
        for first in range(0, n_frames, RUN_FRAMES):
            last = min(first + RUN_FRAMES, n_frames)
            part = padded[first * FRAME_SAMPLES : last * FRAME_SAMPLES + CONTEXT_SAMPLES]
            yield from self._run(part).tolist()

    def finish(self) -> Iterator[float]:
        """Yield the probability of the last frame, filled up with silence, if one is begun."""
        missing = (CONTEXT_SAMPLES - len(self._rest)) % FRAME_SAMPLES
        return self.probabilities(np.zeros(missing, dtype=np.float32))

    def _run(self, part: Samples) -> NDArray[np.float32]:
        """Return the probabilities of frames that lie one behind the other, after their context."""
        inputs = {"input": frames(part), "h": self._h, "c": self._c}
        output, self._h, self._c = self._session.run(None, inputs)
        probabilities: NDArray[np.float32] = output.reshape(-1)
        return probabilities


def frames(samples: Samples) -> NDArray[np.float32]:
    """Cut samples into what the network takes, float32 [n, 576]: each frame after its context."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT_SAMPLES + FRAME_SAMPLES)
    return np.ascontiguousarray(windows[::FRAME_SAMPLES])


_session_lock = threading.Lock()  # lru_cache alone would let two threads load the model


def load_network() -> Any:
    """Return the process's one onnxruntime session, which several threads may run at once; blocks.

    Raises:
        EngineFailure: the network's file is missing.
        Unavailable: the library cannot be loaded.
    """
    with _session_lock:
        return _load_session()


@functools.lru_cache(maxsize=1)
def _load_session() -> Any:
    if not MODEL_FILE.is_file():
        raise EngineFailure(
            "The speech detection model is missing: install whisper-server again, or set WHISPER_VAD=false."
        )
    return session_of(MODEL_FILE)


def session_of(model: Path) -> Any:
    """Return a session of onnxruntime that runs a network on the caller's thread.

    Raises:
        Unavailable: the library cannot be loaded.
    """
    # 0.2 s, which the start of the server does without.
    from whisper_server.services.onnx.session import open_session  # noqa: PLC0415

    return open_session(str(model))
