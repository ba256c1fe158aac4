"""Blocks of audio -> spans of speech, in one pass and bounded memory.

Owns the decision where speech starts and ends, and where a span of more than 30 s is cut. Must not
know of files or windows, nor how a probability is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import SAMPLE_RATE, WINDOW_SAMPLES, Span, VadOptions
from whisper_server.services.speech.silero import FRAME_SAMPLES, Silero

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

FRAME_MS = 1000 * FRAME_SAMPLES / SAMPLE_RATE  # 32
MAX_FRAMES = WINDOW_SAMPLES // FRAME_SAMPLES  # 937: a span stays within 30 s

PAUSE_SEARCH_S = 15.0  # a long span is cut in its last 15 s, where a pause is all but certain
QUIET_SEARCH_S = 5.0  # without a pause: at the quietest point of the last 5 s
QUIET_SAMPLES = SAMPLE_RATE // 10  # quietest 100 ms: longer than the closure of a stop consonant
LONG_PAUSE_FRAMES = round(2000 / FRAME_MS)  # 2 s
# Under this a frame is plainly silent: 35 dB below speech, which is at about -20 dBFS where peaks are at -1.
SILENT_RMS = 10 ** (-55 / 20)


# Speech and nothing around it: for counting seconds, not for cutting.
TIGHT = VadOptions(min_silence_ms=250.0, speech_pad_ms=30.0, keeps_sound=False)


class SpeechGate:
    """Turns frames of sound into regions [start, end) that hold it, in frames: pure hysteresis, no audio.

    A region starts at a voice of `threshold`, or at sound, and ends where voice stays under `end_threshold`
    and sound away for `min_silence_ms`. Regions are padded, never overlap, and none is longer than
    MAX_FRAMES: one that would be is cut in two that touch, in the longest pause of the voice in its last
    15 s; without a pause, or in one so long that other sound may be words, at the frame that
    `quietest(first, last)` names.
    """

    def __init__(self, options: VadOptions, quietest: Callable[[int, int], int]) -> None:
        self._options = options
        self._quietest = quietest
        self._pad = _frames(options.speech_pad_ms)
        self._min_speech = _frames(options.min_speech_ms)
        self._min_silence = max(1, _frames(options.min_silence_ms))
        self._index = 0  # frames seen
        self._floor = 0  # end of the last region
        self._start: int | None = None  # of the open region, padding included
        self._onset = 0  # first frame of its speech
        self._silence: int | None = None  # first frame of the silence that may end it
        self._probabilities: list[float] = []  # from self._start on
        self._sounds: list[bool] = []  # the same

    @property
    def needed_from(self) -> int:
        """First frame that a later region may still hold."""
        return max(self._floor, self._index - self._pad) if self._start is None else self._start

    def feed(self, probabilities: Iterable[float], sounds: Iterable[bool]) -> Iterator[tuple[int, int]]:
        """Take the next frames' probabilities of a voice, and which have sound; yield complete regions."""
        for probability, has_sound in zip(probabilities, sounds, strict=False):
            yield from self._step(probability, has_sound=has_sound)

    def finish(self) -> Iterator[tuple[int, int]]:
        """Yield the region that the end of the audio completes."""
        yield from self._close(self._index if self._silence is None else self._silence)

    def _step(self, probability: float, *, has_sound: bool) -> Iterator[tuple[int, int]]:
        options, frame = self._options, self._index
        self._index += 1
        is_heard = has_sound or probability >= options.threshold
        if self._start is None:
            if not is_heard:
                return
            self._start, self._onset, self._silence = max(self._floor, frame - self._pad), frame, None
            self._probabilities = [0.0] * (frame - self._start)
            self._sounds = [False] * (frame - self._start)
        self._probabilities.append(probability)
        self._sounds.append(has_sound)
        if is_heard:
            self._silence = None
        elif probability < options.end_threshold and self._silence is None:
            self._silence = frame
        if self._silence is not None and self._index - self._silence >= self._min_silence:
            yield from self._close(self._silence)
        elif self._index - self._start >= MAX_FRAMES:
            yield self._cut(self._start)

    def _close(self, end: int) -> Iterator[tuple[int, int]]:
        """End the open region after the speech that ends at `end`; half of the silence is the next one's."""
        start, self._start = self._start, None
        if start is None or end <= start or end - self._onset < self._min_speech:
            return
        self._floor = min(end + min(self._pad, max(1, self._min_silence // 2)), self._index)
        yield start, self._floor

    def _cut(self, start: int) -> tuple[int, int]:
        """Split the open region; what follows the cut stays open, unless it is silence so far."""
        pause = longest_pause(self._probabilities, self._options.end_threshold)
        if pause is None:
            at = self._quietest(start, self._index)
        elif pause[1] - pause[0] > LONG_PAUSE_FRAMES:  # silence, or what voice detection does not know
            at = self._quietest(start + pause[0], start + pause[1])
        else:
            at = start + sum(pause) // 2
        self._floor = at
        self._probabilities = self._probabilities[at - start :]
        self._sounds = self._sounds[at - start :]
        is_heard = any(self._sounds) or any(p >= self._options.end_threshold for p in self._probabilities)
        self._start = at if is_heard else None
        if self._silence is not None:  # what of it lies before the cut is the first half's
            self._silence = max(self._silence, at)
        return start, at


def longest_pause(probabilities: Sequence[float], end_threshold: float) -> tuple[int, int] | None:
    """Return the longest pause of the last 15 s, [first, last) in frames; the later one of equals."""
    best_frames, found, run_frames = 0, None, 0
    first = max(1, len(probabilities) - int(PAUSE_SEARCH_S * 1000 / FRAME_MS))
    for frame in range(first, len(probabilities)):
        run_frames = run_frames + 1 if probabilities[frame] < end_threshold else 0
        if run_frames and run_frames >= best_frames:
            best_frames, found = run_frames, (frame + 1 - run_frames, frame + 1)
    return found


def spans(blocks: Iterable[Samples], options: VadOptions | None = None) -> Iterator[Span]:
    """Yield the speech of a file, in order, as `steps` finds it."""
    return (span for span in steps(blocks, options) if span is not None)


def steps(blocks: Iterable[Samples], options: VadOptions | None = None) -> Iterator[Span | None]:
    """Yield the sound of a file, in order, and None after each block; holds one span and one block.

    The Nones let a caller on a shared thread give others a turn: hours of silence have no span.
    `blocks`: float32 [n], 16 kHz mono, of any sizes; their concatenation is the file.
    """
    held = _Held()
    options = options or VadOptions()
    gate = SpeechGate(options, held.quietest_frame)
    silero = Silero()
    silent_rms = SILENT_RMS if options.keeps_sound else math.inf
    for block in blocks:
        held.append(block)
        for start, end in gate.feed(*held.note(silero.probabilities(block), silent_rms)):
            yield held.heard(start, end)
        held.drop_before(gate.needed_from * FRAME_SAMPLES)
        yield None
    last = list(gate.feed(*held.note(silero.finish(), silent_rms)))
    for start, end in (*last, *gate.finish()):
        yield held.heard(start, end)


def fixed(blocks: Iterable[Samples]) -> Iterator[Span | None]:
    """Yield the whole file, cut at its quietest points without looking for speech; None after each block."""
    held = _Held()
    start = 0
    for block in blocks:
        held.append(block)
        while held.end - start > WINDOW_SAMPLES:
            last = start + WINDOW_SAMPLES
            cut = held.quietest(last - int(QUIET_SEARCH_S * SAMPLE_RATE), last)
            yield held.span(start, cut)
            held.drop_before(cut)
            start = cut
        yield None
    if held.end > start:
        yield held.span(start, held.end)


def _frames(duration_ms: float) -> int:
    return round(duration_ms / FRAME_MS)


class _Held:
    """The samples that a span may still need, addressed by their position in the file."""

    def __init__(self) -> None:
        self._samples: Samples = np.zeros(0, dtype=np.float32)
        self._first = 0
        self._voice: list[float] = []  # probabilities of the frames from self._voice_first on
        self._voice_first = 0

    @property
    def end(self) -> int:
        """File position after the last sample."""
        return self._first + len(self._samples)

    def append(self, block: Samples) -> None:
        self._samples = np.concatenate([self._samples, block])

    def drop_before(self, position: int) -> None:
        dropped = min(max(position - self._first, 0), len(self._samples))
        # A copy: a view would keep the whole block alive.
        self._samples = self._samples[dropped:].copy()
        self._first += dropped
        n_frames = min(max(position // FRAME_SAMPLES - self._voice_first, 0), len(self._voice))
        del self._voice[:n_frames]
        self._voice_first += n_frames

    def note(self, probabilities: Iterable[float], silent_rms: float) -> tuple[list[float], list[bool]]:
        """Keep the next frames' probabilities of a voice; return them, and which of the frames have sound."""
        found = list(probabilities)
        start = (self._voice_first + len(self._voice)) * FRAME_SAMPLES - self._first
        samples = self._samples[start : start + len(found) * FRAME_SAMPLES]
        padded = np.pad(samples, (0, len(found) * FRAME_SAMPLES - len(samples)))
        power = np.square(padded.reshape(-1, FRAME_SAMPLES), dtype=np.float32).mean(axis=1)
        self._voice += found
        return found, (power > silent_rms**2).tolist()

    def heard(self, start: int, end: int) -> Span:
        """Return a copy of the frames [start, end), ended by the end of the file, with their voice."""
        span = self.span(start * FRAME_SAMPLES, end * FRAME_SAMPLES)
        return replace(span, voice=tuple(self._voice[start - self._voice_first : end - self._voice_first]))

    def span(self, start: int, end: int) -> Span:
        """Return a copy of [start, end), ended by the end of the file."""
        return Span(start / SAMPLE_RATE, self._samples[start - self._first : end - self._first].copy())

    def quietest(self, first: int, last: int) -> int:
        """Return the middle of the quietest 100 ms between two positions; the later one of equals."""
        part = self._samples[first - self._first : last - self._first]
        energy = np.cumsum(np.square(part, dtype=np.float64))
        sums = energy[QUIET_SAMPLES:] - energy[:-QUIET_SAMPLES]
        return last - QUIET_SAMPLES // 2 - int(np.argmin(sums[::-1]))

    def quietest_frame(self, first: int, last: int) -> int:
        """Return the frame boundary nearest to the quietest point of the last 5 s of [first, last)."""
        first = max(first, last - int(QUIET_SEARCH_S * 1000 / FRAME_MS))
        return self.quietest(first * FRAME_SAMPLES, last * FRAME_SAMPLES) // FRAME_SAMPLES
