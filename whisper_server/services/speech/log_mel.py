"""Samples -> log-mel spectrogram, the one that every Whisper model was trained on.

Owns the formulas of openai/whisper's `audio.py` (the Hugging Face feature extractor computes the
same): 25 ms periodic Hann window, 10 ms hop, reflected edges, Slaney mel bands, log10, 8 decades of
range. Must not know where the samples come from or which engine reads the result.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import FFT_SAMPLES, HOP_SAMPLES, SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Mel, Samples

N_BINS = FFT_SAMPLES // 2 + 1
EDGE_SAMPLES = FFT_SAMPLES // 2  # a frame is centred on its time: 12.5 ms before and after
STEP_FRAMES = 250  # transformed at once: all 3000 would take 17 MB for a moment, on each thread
FLOOR_POWER = 1e-10  # what digital silence counts as
RANGE_DECADES = 8.0  # everything further below the loudest bin is lifted to that

# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, then 27 bands per factor of 6.4.
LINEAR_HZ_PER_MEL = 200.0 / 3
BREAK_HZ = 1_000.0
BREAK_MEL = BREAK_HZ / LINEAR_HZ_PER_MEL
OCTAVE_RATIO = 6.4
BANDS_PER_OCTAVE_RATIO = 27.0


def log_mel(samples: Samples, n_mels: int) -> Mel:
    """Compute the features of one window.

    `samples`: float32 [n], 16 kHz, 0 < n <= WINDOW_SAMPLES; counted as followed by silence up to 30 s.
    Returns float32 [n_mels, WINDOW_FRAMES], about -1..2.
    """
    if not 0 < len(samples) <= WINDOW_SAMPLES:
        raise ValueError(f"a window holds 1 to {WINDOW_SAMPLES} samples, not {len(samples)}")
    _keep_to_one_thread()
    # Frame t sees samples [160 t - 200, 160 t + 200) and the silence behind sample n is exact zeros,
    # so a frame with 160 t - 200 >= n has power 0 in every bin, which the floor makes log10(1e-10);
    # the frames before that hold at least one real sample (or its reflection) and are computed.
    n_frames = min(WINDOW_FRAMES, -(-(len(samples) + EDGE_SAMPLES) // HOP_SAMPLES))
    # In this order BLAS reads both sides row by row: 4 times faster than filters @ power.T.
    mel: Mel = (_power(samples, n_frames) @ mel_filters(n_mels).T).T
    np.maximum(mel, np.float32(FLOOR_POWER), out=mel)
    np.log10(mel, out=mel)
    lowest = np.float32(mel.max() - RANGE_DECADES)
    np.maximum(mel, lowest, out=mel)
    mel += np.float32(4.0)
    mel /= np.float32(4.0)
    window = np.full((n_mels, WINDOW_FRAMES), silence_beside(mel), dtype=np.float32)
    window[:, :n_frames] = mel
    return window


def silence_beside(mel: Mel) -> np.float32:
    """Return what digital silence is in a window whose loudest bin is in `mel`."""
    lowest = mel.max() * np.float32(4.0) - np.float32(4.0 + RANGE_DECADES)
    silence: np.float32 = (max(np.float32(np.log10(FLOOR_POWER)), lowest) + np.float32(4.0)) / np.float32(4.0)
    return silence


@functools.cache
def _keep_to_one_thread() -> None:
    """Let NumPy's BLAS multiply on its caller's thread; the caller's pool bounds the CPU.

    After a product that OpenBLAS shares with threads of its own, these spin for the next tens of milliseconds
    on cores that an engine could use, several times as long as a spectrogram takes
    (bench/experiments/stages.py).
    """
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415  (with the first file)

    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        # In numpy/ or numpy.libs/; an engine's own BLAS is left alone.
        if any(part.startswith("numpy") for part in Path(library.filepath).parts):
            library.set_num_threads(1)


def keep_work_space() -> None:
    """Let NumPy's BLAS take the memory that it works in, which it keeps: 32 MiB, of which little is touched.

    It has one such buffer for each product at the same time. Where it finds no memory for another one, it
    ends the process (OpenBLAS's memory.c).
    """
    _keep_to_one_thread()
    np.ones((WINDOW_FRAMES, N_BINS), dtype=np.float32) @ mel_filters(80).T


def _power(samples: Samples, n_frames: int) -> NDArray[np.float32]:
    """Return the power spectrum [n_frames, 201] of the first frames, edges reflected as torch.stft does."""
    padded = np.zeros(WINDOW_SAMPLES + 2 * EDGE_SAMPLES, dtype=np.float32)
    body = padded[EDGE_SAMPLES:-EDGE_SAMPLES]
    body[: len(samples)] = samples
    padded[:EDGE_SAMPLES] = body[EDGE_SAMPLES:0:-1]
    padded[-EDGE_SAMPLES:] = body[-2 : -EDGE_SAMPLES - 2 : -1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES][:n_frames]
    power = np.empty((n_frames, N_BINS), dtype=np.float32)
    for first in range(0, n_frames, STEP_FRAMES):
        spectrum = np.fft.rfft(frames[first : first + STEP_FRAMES] * _hann(), axis=1)
        # re^2 + im^2 needs no square root; NumPy 1 transforms in float64 and is cast here.
        power[first : first + STEP_FRAMES] = spectrum.real**2 + spectrum.imag**2
    return power


@functools.lru_cache(maxsize=1)
def _hann() -> NDArray[np.float32]:
    """Return the periodic Hann window, float32 [400], as torch.hann_window makes it."""
    window: NDArray[np.float32] = np.hanning(FFT_SAMPLES + 1)[:-1].astype(np.float32)
    window.setflags(write=False)
    return window


@functools.lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> NDArray[np.float32]:
    """Return the triangular mel filters, float32 [n_mels, 201], each of unit area (Slaney).

    Equal to `librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels)`, from which openai/whisper's
    `mel_filters.npz` was made.
    """
    bin_hz = np.fft.rfftfreq(FFT_SAMPLES, 1.0 / SAMPLE_RATE)
    top_mel = BREAK_MEL + BANDS_PER_OCTAVE_RATIO * np.log(SAMPLE_RATE / 2 / BREAK_HZ) / np.log(OCTAVE_RATIO)
    mels = np.linspace(0.0, top_mel, n_mels + 2)
    octaves = np.maximum(mels - BREAK_MEL, 0.0) / BANDS_PER_OCTAVE_RATIO
    edge_hz = np.where(mels < BREAK_MEL, mels * LINEAR_HZ_PER_MEL, BREAK_HZ * OCTAVE_RATIO**octaves)
    low_hz, centre_hz, high_hz = (edge[:, None] for edge in (edge_hz[:-2], edge_hz[1:-1], edge_hz[2:]))
    rising = (bin_hz - low_hz) / (centre_hz - low_hz)
    falling = (high_hz - bin_hz) / (high_hz - centre_hz)
    weights = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high_hz - low_hz)
    filters: NDArray[np.float32] = weights.astype(np.float32)
    filters.setflags(write=False)
    return filters
