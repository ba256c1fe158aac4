"""Samples -> the logarithmic filter bank that speaker networks learned on, as Kaldi calculates it.

The numbers are those of Kaldi's `compute-fbank-feats` with 80 bins, a Hamming window and no dither, less
their mean over the stretch, as WeSpeaker and 3D-Speaker have them. Must not know of networks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import FFT_SAMPLES, HOP_SAMPLES, SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples

N_BINS = 80
FFT_SIZE = 512  # the next power of two after FFT_SAMPLES
LOW_HZ = 20.0
PREEMPHASIS = 0.97
FULL_SCALE = 32_768.0  # Kaldi counts samples of 16 bits
FLOOR = float(np.finfo(np.float32).eps)


def fbank(samples: Samples) -> NDArray[np.float32]:
    """Return float32 [n_frames, N_BINS], 10 ms per frame, less their mean; whole frames of 25 ms only.

    `samples`: float32 [n], 16 kHz mono, -1..1, at least FFT_SAMPLES of them.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT_SAMPLES)[::HOP_SAMPLES]
    frames = frames * np.float32(FULL_SCALE)
    frames -= frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    windowed = (frames - np.float32(PREEMPHASIS) * before) * np.hamming(FFT_SAMPLES).astype(np.float32)
    power = np.abs(np.fft.rfft(windowed, FFT_SIZE)) ** 2
    bins = np.log(np.maximum(power[:, :-1] @ _filters(), FLOOR))
    found: NDArray[np.float32] = (bins - bins.mean(axis=0)).astype(np.float32)
    return found


@functools.lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    """Return triangles, float64 [FFT_SIZE // 2, N_BINS], whose sides are straight on the mel scale."""
    low, high = _mel(np.array([LOW_HZ, SAMPLE_RATE / 2]))
    edges = np.linspace(low, high, N_BINS + 2)
    mels = _mel(np.arange(FFT_SIZE // 2) * SAMPLE_RATE / FFT_SIZE)[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return filters


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    mels: NDArray[np.float64] = 1127.0 * np.log(1.0 + hertz / 700.0)
    return mels
