"""The networks that tell voices apart, run by onnxruntime: segmentation and voice encoder.

Owns their sessions and what their inputs and outputs look like. Files are read, never mapped, and one that is
pickled is refused before any library sees it. Must not know where files come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.types import FFT_SAMPLES, SAMPLE_RATE
from whisper_server.services.speakers.fbank import N_BINS, fbank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples

WINDOW_SAMPLES = 10 * SAMPLE_RATE  # what the segmentation hears at once
CLASSES = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))  # who speaks, of three voices, at most two at once
N_VOICES = 3

_PICKLED = (b"PK\x03\x04", b"\x80")  # PyTorch's files: zipped, or a bare pickle


class SegmentationNetwork:
    """pyannote's segmentation-3.0: which of at most three voices speak in 10 s, frame by frame."""

    def __init__(self, model: Path) -> None:
        """Load a file.

        Raises:
            ModelUnavailable: it is missing, pickled, or of another shape.
        """
        self._session = _session_of(model)
        self._input = self._session.get_inputs()[0].name
        found = _tried(model, lambda: self._classes(np.zeros(WINDOW_SAMPLES, np.float32)))
        if found.ndim != 2 or found.shape[1] != len(CLASSES):
            raise ModelUnavailable(
                f"{model.name} is no segmentation of at most two of three voices: it gives {found.shape}."
            )

    def voices(self, samples: Samples) -> NDArray[np.bool_]:
        """Return bool [n_frames, N_VOICES], evenly over 10 s; `samples`: float32 [WINDOW_SAMPLES]."""
        members = np.array([[voice in each for voice in range(N_VOICES)] for each in CLASSES])
        found: NDArray[np.bool_] = members[self._classes(samples).argmax(axis=1)]
        return found

    def _classes(self, samples: Samples) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._session.run(None, {self._input: samples[None, None]})[0][0]
        return scores


class VoiceEncoder:
    """A network from sound to voice: stretches of one person lie close together.

    Takes the usual filter bank, [n, frames, 80], or samples, [n, samples], and where it says how many, so
    many.
    """

    def __init__(self, model: Path) -> None:
        """Load a file; raises as `SegmentationNetwork`."""
        self._session = _session_of(model)
        entry = self._session.get_inputs()[0]
        self._input, shape = entry.name, list(entry.shape)
        if len(shape) == 3 and (shape[-1] == N_BINS or not isinstance(shape[-1], int)):
            self._n_samples: int | None = None
            self._takes_samples = False
        elif len(shape) == 2:
            self._n_samples = shape[1] if isinstance(shape[1], int) else None
            self._takes_samples = True
        else:
            raise ModelUnavailable(f"{model.name} is no voice encoder: it takes {shape}.")
        sound = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) * np.float32(0.1)
        _tried(model, lambda: self.voice(sound))

    def voice(self, samples: Samples) -> NDArray[np.float32]:
        """Return what the voice in some sound is like, float32 [n], of length 1; or zeros for none."""
        if len(samples) < FFT_SAMPLES:
            samples = np.resize(samples, FFT_SAMPLES)
        if not self._takes_samples:
            found = self._run(fbank(samples)[None])
        elif self._n_samples is None:
            found = self._run(samples[None])
        else:
            found = self._run(_pieces(samples, self._n_samples))
        voice = found.mean(axis=0)
        length = float(np.linalg.norm(voice))
        return np.asarray(voice / length if length > 0 else voice, np.float32)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        voices: NDArray[np.float32] = self._session.run(None, {self._input: np.ascontiguousarray(batch)})[0]
        if voices.ndim != 2 or len(voices) != len(batch) or not np.isfinite(voices).all():
            raise ValueError(f"it gives {voices.shape}")
        return voices


def _pieces(samples: Samples, size: int) -> Samples:
    """Cut sound into pieces of a size that cover it, [n, size]; what is shorter is repeated."""
    if len(samples) <= size:
        return np.resize(samples, size)[None]
    starts = np.linspace(0, len(samples) - size, -(-len(samples) // size)).astype(int)
    return np.stack([samples[start : start + size] for start in starts])


def _session_of(model: Path) -> Any:
    """Return a session of onnxruntime that runs a network on the caller's thread."""
    from whisper_server.services.onnx.session import open_session  # noqa: PLC0415  (takes 0.2 s)

    try:
        data = model.read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"{model.name} cannot be read: {error.strerror}.") from error
    if data.startswith(_PICKLED):
        raise ModelUnavailable(
            f"{model.name} is pickled, and pickled weights are never loaded. Use ONNX files."
        )
    try:
        return open_session(data)
    except Exception as error:
        raise ModelUnavailable(f"{model.name} is no ONNX file that can be used.") from error


def _tried(model: Path, call: Any) -> Any:
    """Run a network once, so that one of another kind is refused when it is loaded."""
    try:
        return call()
    except Exception as error:
        raise ModelUnavailable(f"{model.name} cannot be used: it takes or gives something else.") from error
