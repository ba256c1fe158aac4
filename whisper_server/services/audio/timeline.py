"""Where a frame belongs on the file's clock: sound that starts late, and gaps, become silence.

Owns that arithmetic; pure. Must not know of libav or samples.
"""

from __future__ import annotations

# Less is rounding (of a millisecond in Matroska), a frame that a codec's delay swallowed, or a recorder whose
# two clocks run apart. The default of libswresample's `min_hard_comp`, from which ffmpeg fills and cuts too.
MIN_GAP_S = 0.1

# In containers of broadcasts a larger step is a new clock, as where files were joined: ffmpeg's default of
# `dts_delta_threshold`.
MAX_STEP_S = 10.0

# Demuxers whose timestamps are only a count of what they have read: there is nothing to be late against.
COUNTED = frozenset({"aac", "aiff", "amr", "au", "caf", "flac", "mp3", "w64", "wav"})
# A stream of AVI says when it starts; after that its chunks are counted.
STARTS_ONLY = frozenset({"avi"})
# Formats that libav marks as AVFMT_TS_DISCONT.
RESTARTING = frozenset({"mpegts", "mpeg", "ogg"})


class Timeline:
    """Follows the frames of one track; times in seconds."""

    def __init__(self, start_s: float | None, demuxer: str) -> None:
        """Take the container's start, which is the file's second 0; None: that of the first frame."""
        self._zero_s = start_s
        self._has_gaps = demuxer not in STARTS_ONLY
        self._may_restart = demuxer in RESTARTING
        self._is_first = True
        self.position_s = 0.0  # file time of the next sample

    def silence_before(self, time_s: float | None) -> float:
        """Return how long the silence is that belongs before a frame with this timestamp, and count it.

        What comes earlier than the sound before it has ended is overlap: it follows that sound, and the
        clock waits until the timestamps have caught up.
        """
        if time_s is None:
            return 0.0
        is_first, self._is_first = self._is_first, False
        if self._zero_s is None:
            self._zero_s = time_s
        ahead_s = time_s - self._zero_s - self.position_s
        if self._may_restart and not is_first and abs(ahead_s) > MAX_STEP_S:
            self._zero_s += ahead_s
            return 0.0
        if ahead_s < MIN_GAP_S or not (is_first or self._has_gaps):
            return 0.0
        self.position_s += ahead_s
        return ahead_s

    def add(self, duration_s: float) -> None:
        """Count a frame."""
        self.position_s += duration_s
