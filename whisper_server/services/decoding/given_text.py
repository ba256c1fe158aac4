"""A text that is given, dealt out to the windows in which it is said. Pure.

The windows come in order, each with what the model heard in it and in the next one: what follows a word at
the seam of two windows tells in which of them it is said. Must not know of engines or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from whisper_server.core.types import MIN_VOICE_S, SECONDS_PER_TIMESTAMP, Decoded, Segment, Window, Word
from whisper_server.services.decoding import belief, segments, text_match

if TYPE_CHECKING:
    from whisper_server.services.engines.tokenizer import Tokenizer
    from whisper_server.services.engines.words import TextTokens

AHEAD_UNITS = 4_000  # of the text, that a window is compared with: half an hour of speech
MAX_TOKENS = 440  # of text, in a window: the model has 448 places, a few of which are taken
PAUSE_S = 0.5  # in which nobody speaks; an unheard word beyond it is placed far from where it is said
UNHEARD = 0.0  # probability of a word that has no place in the sound

_SENTENCE_ENDS = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019\u00bb)\]]*\s+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True, slots=True)
class Heard:
    """A window, and the phrases that the model heard in it, in window time."""

    window: Window
    language: str
    phrases: tuple[segments.Phrase, ...]
    units: tuple[tuple[str, ...], ...]  # one tuple per phrase

    @classmethod
    def of(cls, window: Window, decoded: Decoded, tokenizer: Tokenizer) -> Heard:
        """Take what was decoded."""
        found = (
            [] if decoded.is_silence else list(segments.phrases(decoded.tokens, window.duration_s, tokenizer))
        )
        units = [tuple(text_match.units_of(tokenizer.text(phrase.tokens))) for phrase in found]
        said = [(phrase, mine) for phrase, mine in zip(found, units, strict=True) if mine]
        return cls(window, decoded.language, tuple(p for p, _ in said), tuple(u for _, u in said))

    def has_room_after(self, units: Iterable[str]) -> bool:
        """Tell whether words may be said after the last phrase: voice for them is there, or was not sought.

        How much they need is measured on the window's own phrases: seconds of voice for each letter.
        """
        window, end_s = self.window, self.phrases[-1].end_s
        if not window.voice:
            return True
        heard_s = sum(self._voice_s(phrase.start_s, phrase.end_s) for phrase in self.phrases)
        needed_s = heard_s * _letters(units) / _letters(self.all_units)
        return self._voice_s(end_s, window.duration_s) >= max(MIN_VOICE_S, needed_s)

    def has_pause_after(self, place: int) -> bool:
        """Tell whether nobody speaks between a phrase and the next one, for some time."""
        window, end_s, start_s = self.window, self.phrases[place].end_s, self.phrases[place + 1].start_s
        pause_s = window.file_time(start_s) - window.file_time(end_s, is_end=True)
        return bool(window.voice) and pause_s >= PAUSE_S and self._voice_s(end_s, start_s) < MIN_VOICE_S

    def seconds_per_letter(self, place: int, units: Sequence[str]) -> float:
        """Return how slowly a phrase is said, were these words in it too."""
        phrase = self.phrases[place]
        return self._voice_s(phrase.start_s, phrase.end_s) / _letters([*self.units[place], *units])

    def _voice_s(self, start_s: float, end_s: float) -> float:
        return belief.voice_s(self.window, start_s, end_s, belief.VOICE_THRESHOLD)

    @property
    def all_units(self) -> list[str]:
        """What was heard in the window."""
        return [unit for mine in self.units for unit in mine]


def _letters(units: Iterable[str]) -> int:
    return sum(map(len, units))


@dataclass(frozen=True, slots=True)
class Part:
    """Words of the text that are said between two times of a window."""

    start_s: float
    end_s: float
    numbers: tuple[int, ...]  # of the words, ascending


def _settle(here: Heard, found: text_match.Match, text: Sequence[str]) -> None:
    """Give what nobody heard between two phrases with a pause between them to one of the two.

    It is said in the one that has more time for it. Between phrases without a pause, attention tells.
    """
    n_heard = 0
    for place, units in enumerate(here.units[:-1]):
        n_heard += len(units)
        last = found.taken[n_heard]
        unheard = text[last - found.left_out[n_heard] : last]
        if not unheard or not here.has_pause_after(place):
            continue
        if here.seconds_per_letter(place, unheard) < here.seconds_per_letter(place + 1, unheard):
            found.leave(n_heard)
        else:
            found.keep(n_heard)


@dataclass(slots=True)
class GivenText:
    """The text of one request, and how much of it has its time."""

    lines: list[str]  # what becomes a segment
    words: list[TextTokens]
    line_of: list[int]  # [words]
    _units: list[str] = field(default_factory=list)
    _word_of: list[int] = field(default_factory=list)  # [units]
    _at: int = 0  # first unit that is not dealt out
    _same: set[int] = field(default_factory=set)
    _timed: dict[int, Word] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> GivenText:
        """Split a text: each line is a segment, of a single line each sentence; takes a while."""
        lines = [" ".join(line.split()) for line in text.splitlines()]
        lines = [line for line in lines if line]
        if len(lines) == 1:
            lines = [part for part in (piece.strip() for piece in _SENTENCE_ENDS.split(lines[0])) if part]
        given = cls([], [], [])
        for line in lines:
            words = tokenizer.words_of(line)
            if words:
                given.lines.append(line)
                given.words += words
                given.line_of += [len(given.lines) - 1] * len(words)
        for number, word in enumerate(given.words):
            units = text_match.units_of(word.text)
            given._units += units
            given._word_of += [number] * len(units)
        return given

    @property
    def is_empty(self) -> bool:
        """Whether it has no word to say."""
        return not self._units

    @property
    def share_heard(self) -> float:
        """How much of the text was heard as it is written, 0 to 1, by what the words tell."""
        gains = [text_match.gain_of(unit) for unit in self._units]
        return sum(gains[number] for number in self._same) / max(1, sum(gains))

    def take(self, here: Heard, then: Heard | None) -> list[Part]:
        """Return what of the text is said in a window, `then` being the next one; takes some milliseconds."""
        units, more = here.all_units, then.all_units if then else []
        text = self._units[self._at : self._at + AHEAD_UNITS]
        if not units or not text:
            return []
        found = text_match.match([*units, *more], text, is_end=then is None)
        over = found.taken[len(units)]
        if more and not here.has_room_after(text[over - found.left_out[len(units)] : over]):
            found.leave(len(units))
        _settle(here, found, text)
        taken = found.taken[: len(units) + 1]
        same = {number for number in found.same if number < taken[-1]}
        if len(same) < text_match.MIN_SAME * len(units):
            return []
        parts = self._parts(here, found)
        self._same |= {self._at + number for number in same}
        self._at += taken[-1]
        return parts

    def _parts(self, here: Heard, found: text_match.Match) -> list[Part]:
        """Return the words of each phrase; phrases between which words were left out are one."""
        unsaid = {unit for first, last in found.passages for unit in range(first, last)}
        done = self._word_of[self._at - 1] if self._at else -1
        n_heard, begin = 0, 0
        start_s = 0.0 if found.left_out[0] else here.phrases[0].start_s
        parts: list[Part] = []
        for place, (phrase, units) in enumerate(zip(here.phrases, here.units, strict=True)):
            n_heard += len(units)
            is_last = place + 1 == len(here.phrases)
            if found.left_out[n_heard] and not is_last:
                continue
            said = (unit for unit in range(begin, found.taken[n_heard]) if unit not in unsaid)
            words = {self._word_of[self._at + unit] for unit in said}
            numbers = sorted(number for number in words if number > done)
            end_s = here.window.duration_s if found.left_out[n_heard] else phrase.end_s
            if numbers:
                parts.append(Part(start_s, end_s, tuple(numbers)))
                done = numbers[-1]
            begin = found.taken[n_heard]
            start_s = end_s if is_last else here.phrases[place + 1].start_s
        return parts

    def tokens_of(self, parts: Iterable[Part], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Return the tokens of a window's parts between timestamps, and the numbers of the words in them."""
        tokens: list[int] = []
        numbers: list[int] = []
        n_text = 0
        for part in parts:
            inside: list[int] = []
            for number in part.numbers:
                mine = self.words[number].tokens
                if n_text + len(mine) > MAX_TOKENS:
                    break
                n_text += len(mine)
                inside += mine
                numbers.append(number)
            times = (round(edge_s / SECONDS_PER_TIMESTAMP) for edge_s in (part.start_s, part.end_s))
            start, end = (tokenizer.first_timestamp + step for step in times)
            tokens += [start, *inside, end] if inside else []
        return tokens, numbers

    def note(self, numbers: Sequence[int], found: Sequence[Segment]) -> None:
        """Take the times of words; words that were cut otherwise than the text's are spread evenly."""
        timed = [word for segment in found for word in segment.words]
        if len(timed) == len(numbers):
            self._timed |= dict(zip(numbers, timed, strict=True))
            return
        for place, number in enumerate(numbers):
            if timed:
                self._timed[number] = timed[place * len(timed) // len(numbers)]

    def segments(self, language: str) -> list[Segment]:
        """Return the whole text with its times; words that have none have no length."""
        placed: list[Word] = []
        now_s = next(iter(sorted(word.start_s for word in self._timed.values())), 0.0)
        for number, word in enumerate(self.words):
            known = self._timed.get(number)
            start_s = max(now_s, known.start_s) if known else now_s
            end_s = max(start_s, known.end_s) if known else now_s
            placed.append(Word(word.text.strip(), start_s, end_s, known.probability if known else UNHEARD))
            now_s = end_s
        lines = groupby(range(len(placed)), key=self.line_of.__getitem__)
        return [self._segment(line, list(numbers), placed, language) for line, numbers in lines]

    def _segment(self, line: int, numbers: list[int], placed: Sequence[Word], language: str) -> Segment:
        words = tuple(placed[number] for number in numbers)
        return Segment(
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            text=" " + self.lines[line],
            tokens=tuple(token for number in numbers for token in self.words[number].tokens),
            temperature=0.0,
            avg_logprob=segments.mean_logprob([word.probability for word in words]),
            compression_ratio=0.0,
            no_speech_prob=0.0,
            language=language,
            seek_frames=0,
            words=words,
        )
