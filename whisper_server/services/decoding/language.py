"""Which language each window of a file is decoded in: by its own sound, and by the windows before it. Pure.

A window tells its language with certainty where enough is said in it. A short one, a noisy one or one
without a voice does not: then the model says anything, English above all. So a window that is sure has the
language that it says, and any other one has that of the last sure window before it. Until a window is sure,
several are heard together: the mean of their probabilities, each weighted by the seconds of its voice.

What a window says does not depend on another one, and none is decoded with the text of another: its language
is a function of the file and the options, whatever else runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from whisper_server.core.types import MIN_VOICE_S
from whisper_server.services.decoding.belief import SURE_LANGUAGE_PROBABILITY

# bench/experiments/language.md has the figures.
SURE_PROBABILITY = SURE_LANGUAGE_PROBABILITY
SURE_VOICE_S = 2.0
LOOK_AHEAD = 3  # windows that are heard together, at most, before the first of them is shown
LEAST_VOICE_S = 0.1  # what a window without a voice counts for: something where there is nothing else


@dataclass(frozen=True, slots=True)
class Heard:
    """What a window says about its language."""

    scores: Mapping[str, float]  # code -> probability, of all that may be chosen; at least one
    voice_s: float

    @property
    def best(self) -> str:
        """The most probable language; of equals the one that comes first."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def is_sure(self) -> bool:
        """Whether the window tells its language with certainty."""
        return self.voice_s >= SURE_VOICE_S and self.scores[self.best] >= SURE_PROBABILITY

    def choice(self, expected: str | None) -> str:
        """Return the language to decode the window in, where this one is expected, or None."""
        return self.best if expected is None or self.is_sure else expected


def among(scores: Mapping[str, float], codes: Iterable[str]) -> dict[str, float]:
    """Return the probabilities under the condition that it is one of these languages."""
    known = {code: scores[code] for code in codes if code in scores}
    total = sum(known.values())
    return {code: score / total for code, score in known.items()} if total > 0 else known


def pooled(windows: Sequence[Heard]) -> Heard:
    """Return what windows say together: the mean of their probabilities by the seconds of their voice."""
    weights = [max(each.voice_s, LEAST_VOICE_S) for each in windows]
    codes = dict.fromkeys(code for each in windows for code in each.scores)
    scores = {
        code: sum(weight * each.scores.get(code, 0.0) for weight, each in zip(weights, windows, strict=True))
        / sum(weights)
        for code in codes
    }
    return Heard(scores, sum(each.voice_s for each in windows))


class FileLanguage:
    """The language of a file, and then of its windows, which are told one by one in their order."""

    def __init__(self, given: str | None = None, *, switches: bool = True) -> None:
        """Take the language that the request names; else whether windows may be of several languages."""
        self.is_detected = given is None
        self.main = given  # what windows are expected to be in; None until it is known
        self.probability = 1.0  # of `main`
        self.switches = switches and self.is_detected
        self._now = given  # language of the last sure window
        self._held: list[Heard] = []

    def hear(self, heard: Heard) -> bool:
        """Take the next window; return whether the language of all windows so far can be told."""
        if self.main is not None:
            return True
        self._held.append(heard)
        if not heard.is_sure and len(self._held) < LOOK_AHEAD:
            return False
        self.decide()
        return True

    def decide(self) -> None:
        """Decide for the windows that were heard; and for the file, if they have a voice."""
        if not self._held:
            return
        together = pooled(self._held)
        self._now = together.best
        if together.voice_s >= MIN_VOICE_S:
            self.main, self.probability = together.best, together.scores[together.best]
        self._held = []

    def of(self, heard: Heard) -> str:
        """Return the language of the next window; ask once for each, in their order, when it can be told."""
        if not self.switches:
            return self._now or heard.best
        self._now = heard.choice(self._now)
        return self._now
