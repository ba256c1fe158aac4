"""Samples as they come in -> who speaks when, at any moment: the work on one file.

    samples --Segmentation.voices--> Scene     who of its voices speaks, per window
            --VoiceEncoder.voice---> vector    one per voice of a window
            --Voices.speakers------> centres   of as many speakers as there are
            --turns.runs-----------> [Turn]

Holds ten seconds of sound, and a kilobyte for each voice of a window. One thread at a time may call it. Must
not know of tasks, of text or of files.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import SAMPLE_RATE, Turn
from whisper_server.services.speakers.clustering import SpeakerCount, Voices
from whisper_server.services.speakers.segmentation import FRAME_SAMPLES, Segmentation
from whisper_server.services.speakers.turns import FRAME_S, Scene, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples
    from whisper_server.services.speakers.networks import VoiceEncoder

    Vector = NDArray[np.float32]
    Vectors = NDArray[np.float32]

MIN_SOUND_S = 0.25  # less of a voice than this tells nothing
CLEAN_SOUND_S = 1.0  # from which a voice alone may found a speaker
MAX_SOUND_S = 4.0  # more of one window's voice costs more and says no more


@dataclass(frozen=True, slots=True)
class KnownVoice:
    """A person whom a sample of the voice makes known."""

    name: str
    voice: Vector


class Diarizer:
    """Tells the speakers of one file apart."""

    def __init__(
        self,
        segmentation: Segmentation,
        encoder: VoiceEncoder,
        threshold: float,
        count: SpeakerCount | None = None,
        known: Sequence[KnownVoice] = (),
    ) -> None:
        """Take what finds voices, new for each file, and what tells them apart.

        Voices that are farther apart than `threshold`, 0..2, are two persons.
        """
        self._segmentation = segmentation
        self._encoder = encoder
        self._threshold = threshold
        self._count = count or SpeakerCount()
        self._names = _Names(known, threshold)
        self._samples: Samples = np.zeros(0, np.float32)  # the last ones of the file
        self._end = 0  # file position after them
        self._heard = 0  # file position up to which windows reach
        self._scenes: list[Scene] = []
        self._vectors: list[list[Vector | None]] = []  # of each voice of each scene
        self._voices = Voices()  # of those heard for long enough
        self._short = Voices()  # of the others, for where there is nobody else
        self._centres: Vectors | None = None  # of the speakers; None: not known since a voice was added

    @property
    def position_s(self) -> float:
        """Seconds taken so far."""
        return self._end / SAMPLE_RATE

    def add(self, samples: Samples) -> None:
        """Take the next samples of the file, float32 [n], 16 kHz mono."""
        window, hop = self._segmentation.window_samples, self._segmentation.hop_samples
        for first in range(0, len(samples), hop):
            block = samples[first : first + hop]
            self._segmentation.hear(block)
            self._samples = np.concatenate([self._samples[-window:], block])
            self._end += len(block)
            while self._end >= max(self._heard + hop, window):
                self._look(max(self._heard + hop, window))

    def catch_up(self) -> None:
        """Look at what no window has reached yet, as at the end of the file."""
        if self._end > self._heard:
            self._look(self._end)

    def turns(self, start_s: float = 0.0, end_s: float | None = None) -> list[Turn]:
        """Return who speaks from when to when, by start; call `catch_up` before.

        A speaker keeps the name from call to call, as far as it can be told who it is.
        """
        first = int(start_s / FRAME_S)
        last = -(-self._end // FRAME_SAMPLES)
        end = last if end_s is None else min(last, int(np.ceil(end_s / FRAME_S)))
        if self._centres is None:
            voices = self._voices or self._short
            self._centres = voices.speakers(self._threshold, self._segmentation.small, self._count)
        centres = self._centres
        speakers = [
            _assigned(vectors, centres) if scene.first < end and scene.end > first else []
            for scene, vectors in zip(self._scenes, self._vectors, strict=True)
        ]
        found = runs(self._scenes, speakers, len(centres), first, max(first, end))
        names = self._names.of(centres, dict.fromkeys(run.speaker for run in found))
        limit_s = self._end / SAMPLE_RATE
        turns = [
            Turn(run.first * FRAME_S, min(run.end * FRAME_S, limit_s), names[run.speaker]) for run in found
        ]
        return _joined(turns)

    def voice(self) -> Vector | None:
        """Return what the voices that were heard are like together, of length 1; None where there is none."""
        [*centres] = (self._voices or self._short).speakers(2.0, 0.0, SpeakerCount(1, 1))
        length = float(np.linalg.norm(centres[0])) if centres else 0.0
        return centres[0] / length if length else None

    def _look(self, end: int) -> None:
        """Find the voices of the window that ends at a file position."""
        size = self._segmentation.window_samples
        start = max(0, end - size)
        start += -start % FRAME_SAMPLES  # windows share the frames of the file
        held = self._end - len(self._samples)  # file position of the first sample that is held
        samples = self._samples[start - held : end - held]
        window = np.zeros(size, np.float32)
        window[: len(samples)] = samples
        active = self._segmentation.voices(window, start)
        n_frames = min(-(-len(samples) // FRAME_SAMPLES), len(active))
        active[n_frames:] = False
        active = active[:, active.any(axis=0)]
        self._heard = end
        self._scenes.append(Scene(start // FRAME_SAMPLES, active, n_frames))
        self._vectors.append([self._vector(window, active, voice) for voice in range(active.shape[1])])

    def _vector(self, window: Samples, active: NDArray[np.bool_], voice: int) -> Vector | None:
        """Return what one voice of a window is like, from where it speaks alone if that is enough."""
        mine = active[:, voice]
        alone = mine & (active.sum(axis=1) == 1)
        is_clean = alone.sum() * FRAME_S >= CLEAN_SOUND_S
        frames = np.flatnonzero(alone if alone.sum() * FRAME_S >= MIN_SOUND_S else mine)
        if len(frames) * FRAME_S < MIN_SOUND_S:
            return None
        frames = frames[: int(MAX_SOUND_S / FRAME_S)]
        places = (frames[:, None] * FRAME_SAMPLES + np.arange(FRAME_SAMPLES)).reshape(-1)
        vector = self._encoder.voice(window[places[places < len(window)]])
        if not vector.any():
            return None
        (self._voices if is_clean else self._short).add(vector, 1.0)
        self._centres = None
        return vector


def _assigned(vectors: Sequence[Vector | None], centres: Vectors) -> list[int]:
    """Return the speaker of each voice of a window, -1 where it cannot be told.

    Two voices are two speakers, unless there are fewer speakers than voices.
    """
    found = [-1] * len(vectors)
    if not len(centres):
        return found
    distances = np.full((len(vectors), len(centres)), np.inf)
    for i, vector in enumerate(vectors):
        if vector is not None:
            distances[i] = np.linalg.norm(centres - vector, axis=1)
            found[i] = int(distances[i].argmin())
    for _ in range(min(distances.shape)):
        voice, speaker = np.unravel_index(distances.argmin(), distances.shape)  # the surest comes first
        if np.isinf(distances[voice, speaker]):
            break
        found[voice] = int(speaker)
        distances[voice, :] = distances[:, speaker] = np.inf
    return found


class _Names:
    """What speakers are called: as samples of voices say, else A, B, ... in the order in which they speak."""

    def __init__(self, known: Sequence[KnownVoice], threshold: float) -> None:
        self._known = tuple(known)
        self._threshold = threshold
        self._given: list[tuple[str, Vector]] = []  # letters, and who has them
        self._letters = (each for each in _letters() if each not in {one.name for one in known})

    def of(self, centres: Vectors, speaking: Iterable[int]) -> dict[int, str]:
        """Return the names of those who speak, who come in the order of their first turns."""
        pending = list(speaking)
        found = {each: name for each in pending if (name := self._known_name(centres[each]))}
        found |= self._names_given(centres, [each for each in pending if each not in found])
        given = dict(self._given)
        for each in pending:
            if each not in found:
                found[each] = next(self._letters)
            if all(found[each] != one.name for one in self._known):
                given[found[each]] = centres[each]
        self._given = list(given.items())
        return found

    def _known_name(self, centre: Vector) -> str:
        """Return whose sample is like a speaker's voices, "" where nobody's is."""
        direction = centre / max(float(np.linalg.norm(centre)), 1e-9)
        near = min(((_apart(direction, each.voice), each.name) for each in self._known), default=(np.inf, ""))
        return near[1] if near[0] <= self._threshold else ""

    def _names_given(self, centres: Vectors, speakers: Sequence[int]) -> dict[int, str]:
        """Return the letters that speakers were given before, as far as they can be told again."""
        found: dict[int, str] = {}
        pairs = sorted(
            (_apart(centres[speaker], vector), speaker, name)
            for speaker in speakers
            for name, vector in self._given
        )
        for distance, speaker, name in pairs:
            if distance <= self._threshold and speaker not in found and name not in found.values():
                found[speaker] = name
        return found


def _apart(one: Vector, other: Vector) -> float:
    return float(np.linalg.norm(one - other))


def _letters() -> Iterator[str]:
    """Yield A, B, ... Z, AA, AB, ..."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(letters)


def _joined(turns: Iterable[Turn]) -> list[Turn]:
    """Join turns of one speaker that touch or overlap; they come by start."""
    found: list[Turn] = []
    last: dict[str, int] = {}
    for turn in turns:
        place = last.get(turn.speaker)
        if place is not None and turn.start_s <= found[place].end_s:
            found[place] = replace(found[place], end_s=max(found[place].end_s, turn.end_s))
            continue
        last[turn.speaker] = len(found)
        found.append(turn)
    return found
