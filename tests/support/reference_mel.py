"""The log-mel spectrogram by its definition in openai/whisper's `audio.py`: float64, and no fast transform.

Mel filters are librosa's (`mel(sr=16000, n_fft=400, n_mels=80 or 128)`): Slaney's scale, of unit area.
"""

from __future__ import annotations

import math

import numpy as np

RATE, N_FFT, HOP, CHUNK = 16_000, 400, 160, 480_000


def hz(mel: float) -> float:
    """Slaney's scale: 3 mel are 200 Hz up to 1 kHz; from there 27 mel are a factor of 6.4."""
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def filters(n_mels: int) -> np.ndarray:
    """float64 [n_mels, 201]: triangles over three neighbours of points that are equally far in mel."""
    top = 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4)
    points = [hz(top * point / (n_mels + 1)) for point in range(n_mels + 2)]
    bank = np.zeros((n_mels, N_FFT // 2 + 1))
    for band, (low, centre, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        for k in range(bank.shape[1]):
            at = k * RATE / N_FFT
            height = min((at - low) / (centre - low), (high - at) / (high - centre))
            bank[band, k] = max(0.0, height) * 2 / (high - low)
    return bank


def log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """float64 [n_mels, 3000] of up to 30 s, which silence fills up.

    torch.stft with a periodic Hann window, centred frames and reflected edges, without its last frame.
    """
    sound = np.zeros(CHUNK)
    sound[: len(samples)] = samples
    padded = np.pad(sound, N_FFT // 2, mode="reflect")
    n = np.arange(N_FFT)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / N_FFT)
    frames = np.stack([padded[at : at + N_FFT] * window for at in range(0, CHUNK, HOP)])
    angles = 2 * np.pi * np.outer(n, np.arange(N_FFT // 2 + 1)) / N_FFT
    power = (frames @ np.cos(angles)) ** 2 + (frames @ np.sin(angles)) ** 2
    log = np.log10(np.maximum(filters(n_mels) @ power.T, 1e-10))
    return (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0
