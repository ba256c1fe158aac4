"""A window of sound -> which voices speak in it, frame by frame: by a network, or by voice detection alone.

Which of the voices of two windows are the same person is not known here. Must not know of networks' files.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from whisper_server.core.types import SAMPLE_RATE, VOICE_SAMPLES
from whisper_server.services.speakers.networks import WINDOW_SAMPLES
from whisper_server.services.speech.silero import Silero

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples
    from whisper_server.services.speakers.networks import SegmentationNetwork

    Activity = NDArray[np.bool_]

FRAME_SAMPLES = SAMPLE_RATE // 50  # 20 ms: one decision of who speaks
VOICE_THRESHOLD = 0.5
SHORT_PAUSE_FRAMES = 12  # 0.24 s: within a turn


class Segmentation(Protocol):
    """Finds voices in the windows of one file."""

    window_samples: int
    hop_samples: int  # from one window to the next
    small: float  # stretches under which a speaker is none

    def hear(self, samples: Samples) -> None:
        """Take the next samples of the file, once each, before the windows in which they are."""
        ...

    def voices(self, samples: Samples, start: int) -> Activity:
        """Return bool [n_frames, n_voices] of a window; `start` is the file position of its first sample."""
        ...


class NetworkSegmentation(Segmentation):
    """Windows of 10 s, of which a network tells up to three voices, also where two speak at once.

    A step of 2 s in place of pyannote's 1 s: half of the work, at 7.4 % in place of 7.1 % of error on
    VoxConverse by speakrs' published measurement of the same networks.
    """

    window_samples = WINDOW_SAMPLES
    hop_samples = 2 * SAMPLE_RATE
    small = 6.0  # pyannote's 12 windows, of which there are half as many here

    def __init__(self, network: SegmentationNetwork) -> None:
        self._network = network

    def hear(self, samples: Samples) -> None:
        """Do nothing: a window has all that is needed."""

    def voices(self, samples: Samples, start: int) -> Activity:  # noqa: ARG002
        """Return bool [n_frames, 3]."""
        found = self._network.voices(samples)
        n_frames = len(samples) // FRAME_SAMPLES
        centres = (np.arange(n_frames) + 0.5) * len(found) / n_frames
        aligned: Activity = found[centres.astype(int)]
        return aligned


class VoiceSegmentation(Segmentation):
    """Short windows with one voice each, where voice detection hears any: no network is needed.

    Two who speak at once are taken for one, and a change of speaker is as exact as a window is long.
    """

    window_samples = 8 * SAMPLE_RATE // 5
    hop_samples = 2 * SAMPLE_RATE // 5
    small = 5.0

    def __init__(self) -> None:
        self._silero = Silero()
        self._first = 0  # file frame of the first probability that is kept, each of VOICE_SAMPLES
        self._voice: deque[bool] = deque()

    def hear(self, samples: Samples) -> None:
        """Run voice detection, which carries its state through the file."""
        self._voice.extend(each >= VOICE_THRESHOLD for each in self._silero.probabilities(samples))

    def voices(self, samples: Samples, start: int) -> Activity:
        """Return bool [n_frames, 1]; windows come in order, and what lies before them is forgotten."""
        while self._voice and (self._first + 1) * VOICE_SAMPLES <= start - SAMPLE_RATE:
            self._voice.popleft()
            self._first += 1
        heard = without_short_pauses(
            np.array(self._voice, bool), SHORT_PAUSE_FRAMES * FRAME_SAMPLES // VOICE_SAMPLES
        )
        centres = start + (np.arange(len(samples) // FRAME_SAMPLES) + 0.5) * FRAME_SAMPLES
        places = (centres // VOICE_SAMPLES).astype(int) - self._first
        found = np.zeros((len(places), 1), bool)
        inside = (places >= 0) & (places < len(heard))
        found[inside, 0] = heard[places[inside]]
        return found


def without_short_pauses(is_active: NDArray[np.bool_], n_frames: int) -> NDArray[np.bool_]:
    """Fill pauses of at most so many frames that lie between two that are active."""
    places = np.flatnonzero(is_active)
    filled = is_active.copy()
    for left, right in itertools.pairwise(places):
        if 1 < right - left <= n_frames + 1:
            filled[left:right] = True
    return filled
