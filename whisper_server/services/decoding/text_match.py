"""Which part of a given text was heard where: alignment of its words with those of a transcript. Pure.

Global alignment (Needleman and Wunsch, 1970) over words, in scripts without spaces over characters.
Transcripts mishear, leave out and invent words, so three things are told apart: a word heard as another, some
words that one side has and the other has not, and a long passage of the text that nobody says, which costs
the same however long it is. Scores are whole numbers; must not know of tokens, windows or times.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from whisper_server.services.engines.words import is_unspaced

LETTER_GAIN = 2  # of a word that is the same, for each letter: the longer, the less it is so by chance
MAX_GAIN = 10
CHARACTER_GAIN = 5  # of a script without spaces
OTHER_COST = 6  # a word heard as another one
LIKE_COST = 5  # as one that begins with the same sign: "the" for "thee" and not for the word after it
UNWRITTEN_COST = 3  # a heard word that the text does not have: a word of the speaker's own, or the model's
UNHEARD_COST = 5  # a word of the text that was not heard
PASSAGE_COST = (
    150  # a passage of the text that was not heard: longer than 30 words, it is left out as a whole
)

# Texts that have nothing to do with each other share small words. What takes up a part of the text has to
# share more: half of what one misheard word in two leaves.
MIN_SAME = 0.25  # of the words that are heard


@dataclass(slots=True)
class Match:
    """How heard words take up the words of a text."""

    taken: list[int] = field(
        default_factory=list
    )  # [n + 1]: words of the text that are over after n heard ones
    left_out: list[int] = field(default_factory=list)  # [n + 1]: words that nobody says, after n heard ones
    same: set[int] = field(default_factory=set)  # words of the text that were heard as they are written
    passages: list[tuple[int, int]] = field(
        default_factory=list
    )  # [first, last) of the text that nobody says

    def leave(self, n_heard: int) -> None:
        """Leave what was left out after so many heard words to the words after them."""
        if self._is_whole(n_heard):
            self.taken[n_heard] -= self.left_out[n_heard]
            self.left_out[n_heard] = 0

    def keep(self, n_heard: int) -> None:
        """Take what was left out after so many heard words for a part of what is said before."""
        if self._is_whole(n_heard):
            self.left_out[n_heard] = 0

    def _is_whole(self, n_heard: int) -> bool:
        return all(last != self.taken[n_heard] for _, last in self.passages)


def units_of(text: str) -> list[str]:
    """Return what is compared: words without case and punctuation, single characters of unspaced scripts."""
    found: list[str] = []
    word = ""
    for char in text.casefold():
        if char.isalnum() and not is_unspaced(char):
            word += char
            continue
        if word and not _is_inside_word(char):
            found.append(word)
            word = ""
        if char.isalnum():
            found.append(char)
    return [*found, word] if word else found


def _is_inside_word(char: str) -> bool:
    """Tell whether a sign may stand inside a word: an apostrophe, a vowel sign, a joiner."""
    return char in "'\u2019" or unicodedata.category(char) in {"Mn", "Mc", "Cf"}


def gain_of(unit: str) -> int:
    """Return how much it tells that a word was heard as it is written."""
    return CHARACTER_GAIN if is_unspaced(unit[0]) else min(MAX_GAIN, LETTER_GAIN * len(unit))


def match(heard: Sequence[str], text: Sequence[str], *, is_end: bool) -> Match:
    """Align heard words with the beginning of a text; with `is_end`, nothing more will be heard.

    Takes n * m steps and 12 bytes for each: bound both.
    """
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(text))}
    text_numbers = np.array([numbers[unit] for unit in text], dtype=np.int32)
    initials = np.array([ord(unit[0]) for unit in text], dtype=np.int32)
    rows = [(numbers.get(unit, -1), gain_of(unit), ord(unit[0])) for unit in heard]
    table = _Table.filled(rows, text_numbers, initials)
    return table.path(_end_of(table.best[-1], is_end=is_end), len(heard))


def _end_of(last: NDArray[np.int32], *, is_end: bool) -> int:
    """Return how many words of the text are taken at the end; the first of equals."""
    if is_end:
        left = np.arange(len(last) - 1, -1, -1, dtype=np.int32)
        last = last - np.minimum(UNHEARD_COST * left, PASSAGE_COST)
    return int(last.argmax())


@dataclass(frozen=True, slots=True)
class _Table:
    """Best scores, [heard + 1, text + 1], at three stages of each row."""

    heard: NDArray[np.int32]  # after the heard word
    skipped: NDArray[np.int32]  # then words of the text may be skipped one by one
    best: NDArray[np.int32]  # then a passage as a whole
    same: list[NDArray[np.int32]]  # [text]: the gain, or the cost, of taking each word for the heard one

    @classmethod
    def filled(
        cls, heard: Sequence[tuple[int, int, int]], text: NDArray[np.int32], initials: NDArray[np.int32]
    ) -> _Table:
        shape = (len(heard) + 1, len(text) + 1)
        table = cls(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32), [])
        ramp = UNHEARD_COST * np.arange(shape[1], dtype=np.int32)
        table.heard[0] = -ramp - PASSAGE_COST
        table.heard[0, 0] = 0
        for row in range(shape[0]):
            if row:
                number, gain, initial = heard[row - 1]
                other = np.where(initials == initial, -LIKE_COST, -OTHER_COST)
                score = np.where(text == number, gain, other).astype(np.int32)
                table.same.append(score)
                table.heard[row] = table.best[row - 1] - UNWRITTEN_COST
                np.maximum(table.heard[row, 1:], table.best[row - 1, :-1] + score, out=table.heard[row, 1:])
            table.skipped[row] = np.maximum.accumulate(table.heard[row] + ramp) - ramp
            over = np.maximum.accumulate(table.skipped[row]) - PASSAGE_COST
            table.best[row] = np.maximum(table.skipped[row], over)
        return table

    def path(self, column: int, n_heard: int) -> Match:
        """Follow the best scores back from the end."""
        found = Match(taken=[0] * (n_heard + 1), left_out=[0] * (n_heard + 1))
        for row in range(n_heard, -1, -1):
            found.taken[row] = column
            if self.best[row, column] != self.skipped[row, column]:
                before = int(self.skipped[row, : column + 1].argmax())
                found.passages.append((before, column))
                column = before
            while self.skipped[row, column] != self.heard[row, column]:
                found.left_out[row] += 1
                column -= 1
            if row == 0:
                break
            # Of a word that comes twice, the first one is taken: the model stutters at the end of a phrase.
            if self.heard[row, column] != self.best[row - 1, column] - UNWRITTEN_COST:
                column -= 1
                if self.same[row - 1][column] > 0:
                    found.same.add(column)
        found.passages.reverse()
        return found
