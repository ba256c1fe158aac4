"""Successive decodes of a growing recording -> words that may be shown, and never taken back.

LocalAgreement-2 (Liu et al. 2020, as whisper_streaming applies it to Whisper): the end of a decode is
unreliable, because the sound that it stands on goes on. Words are shown when two successive decodes begin
with them, or when they ended some time ago (`sure_s`). So the recording is decoded again and again; phrases
whose words have all been shown are left out of the next decode (`settled_s`). Pure; must not know where the
decodes come from.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Without spaces a character is the unit: Thai, Lao, Burmese and Khmer; kana, Han and their full-width forms.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECES = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")


LOOKED_FOR = 5  # pieces


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of one decode that are shown together, with their end in seconds of the turn."""

    text: str  # leading space kept
    end_s: float
    is_cut: bool = True  # the next decode may begin after it


class Agreement:
    """What has been shown of one turn."""

    def __init__(self) -> None:
        self.shown = ""
        self.settled_s = 0.0  # in seconds of the turn: what is before need not be decoded again
        self._spoken: list[str] = []  # pieces that have been shown, from `settled_s` on
        self._previous: list[str] = []  # pieces of the decode before that follow those
        self._n_shown = 0  # of the last decode's pieces

    def add(self, phrases: Sequence[Phrase], sure_s: float = 0.0) -> str:
        """Take a decode of the turn from `settled_s` on; return what may be shown now, "" for nothing.

        Phrases that end by `sure_s`, in seconds of the turn, need no second decode.
        """
        pieces = _pieces("".join(phrase.text for phrase in phrases))
        at = _continued(self._spoken, pieces)
        rest = pieces[at:]
        n_sure = len(_pieces("".join(phrase.text for phrase in _ended(phrases, sure_s))))
        n_agreed = max(_common(self._previous, rest), n_sure - at)
        fresh, self._previous = rest[:n_agreed], rest[n_agreed:]
        self._spoken += fresh
        self._n_shown = at + n_agreed
        return self._show("".join(fresh))

    def settle(self, phrases: Sequence[Phrase], sure_s: float = 0.0) -> None:
        """Leave phrases of the last decode that have been shown, all but the last, out of the next one.

        The last, too, where it ends by `sure_s`, and then everything up to there.
        """
        n_pieces = n_settled = 0
        for number, phrase in enumerate(phrases, 1):
            n_pieces += len(_pieces(phrase.text))
            is_sure = phrase.end_s <= sure_s
            if n_pieces > self._n_shown or not (is_sure or number < len(phrases)):
                break
            if is_sure or phrase.is_cut:
                self.settled_s, n_settled = phrase.end_s, n_pieces
        if len(_ended(phrases, sure_s)) == len(phrases):
            self.settled_s = max(self.settled_s, sure_s)
        self._n_shown -= n_settled
        self._spoken = self._spoken[len(self._spoken) - self._n_shown :] if self._n_shown else []

    def finish(self, transcript: str) -> str:
        """Return what is left to show of the final text; "" where what was shown is no beginning of it."""
        return transcript[len(self.shown) :] if transcript.startswith(self.shown) else ""

    def _show(self, text: str) -> str:
        if not self.shown:
            text = text.lstrip()
        self.shown += text
        return text


def _ended(phrases: Sequence[Phrase], sure_s: float) -> Sequence[Phrase]:
    """Return the phrases at the beginning that end by this time."""
    return list(itertools.takewhile(lambda phrase: phrase.end_s <= sure_s, phrases))


def _pieces(text: str) -> list[str]:
    """Cut a text into words with the space before them, or characters where words have no spaces."""
    return _PIECES.findall(text.rstrip())


def _continued(spoken: Sequence[str], pieces: Sequence[str]) -> int:
    """Return how many pieces of a decode have been shown, where it may have changed its mind about some.

    The last few that were shown are looked for near the place where they were; where not even one of them
    is there, their number decides.
    """
    for n_last in range(min(LOOKED_FOR, len(spoken)), 0, -1):
        wanted = [_plain(piece) for piece in spoken[-n_last:]]
        ends = range(max(n_last, len(spoken) - LOOKED_FOR), min(len(pieces), len(spoken) + LOOKED_FOR) + 1)
        for end in sorted(ends, key=lambda end: abs(end - len(spoken))):
            if [_plain(piece) for piece in pieces[end - n_last : end]] == wanted:
                return end
    return min(len(spoken), len(pieces))


def _common(before: Sequence[str], now: Sequence[str]) -> int:
    """Return how many pieces two texts have in common at their beginning."""
    for number, (one, other) in enumerate(zip(before, now, strict=False)):
        if _plain(one) != _plain(other):
            return number
    return min(len(before), len(now))


def _plain(piece: str) -> str:
    """Return what two decodes need not agree on left out: case, and the marks around a word."""
    return piece.strip().strip(".,;:!?…\"'").casefold() or piece.strip()
