"""Text tokens of whole characters -> words; pure.

Words end at spaces; in scripts that write none, where tokens do, as with openai/whisper's
`split_tokens_on_unicode`: a token is often a word there, and finding words would take a dictionary. The
script decides, not the language of the window: a Chinese window may have English words in it, and
translations are English. Punctuation belongs to the word before it; to the next one where it opens
something or is written with that, as openai/whisper's `merge_punctuations` has it.
"""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OPENING = frozenset({"Ps", "Pi", "Pd"})  # brackets, quotes and the dash before a speaker's turn
_JOINER = "\N{ZERO WIDTH JOINER}"

# Scripts of the languages that openai/whisper does not split at spaces (zh, ja, th, lo, my, yue): first and
# last code points of Unicode's blocks, ascending.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x2E80, 0x312F),  # Han radicals, CJK punctuation, kana, Bopomofo
    (0x3190, 0x9FFF),  # more of these, Han
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han
    (0xFF00, 0xFF9F),  # full-width Latin, half-width kana
    (0x1AFF0, 0x1B16F),  # kana
    (0x20000, 0x3FFFF),  # Han
)
_FIRSTS = [first for first, _ in _UNSPACED]


@dataclass(frozen=True, slots=True)
class TextTokens:
    """A piece of text and the run of tokens that spells it."""

    text: str  # white space kept
    tokens: tuple[int, ...]


class _Run:
    """Pieces that become one word. It is asked, and gets longer, in constant time: a text may be one word."""

    __slots__ = ("_is_space", "_last", "_spoken", "_texts", "_tokens", "opens")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._last = self._spoken = ""  # its last character, and its last letter or digit
        self._is_space = True
        self.opens = True  # it is punctuation that opens what follows, even with a space between

    @property
    def has_text(self) -> bool:
        return bool(self._last)

    def append(self, piece: TextTokens) -> None:
        self._texts.append(piece.text)
        self._tokens += piece.tokens
        self._last = piece.text[-1:] or self._last
        self._spoken = next((char for char in reversed(piece.text) if char.isalnum()), self._spoken)
        self._is_space = self._is_space and piece.text.isspace()
        self.opens = self.opens and _opens(piece.text)

    def may_open(self, marks: str) -> bool:
        """Tell whether punctuation after it begins a new word, rather than going on with this one."""
        if marks[0].isspace():
            return True
        return _opens(marks) and unicodedata.category(marks[0]) != "Pd" and self._ends_unspaced()

    def goes_on(self, piece: str) -> bool:
        """Tell whether a piece goes on with it."""
        if unicodedata.category(piece[0]).startswith("M") or _JOINER in (piece[0], self._last):
            return True
        if piece[0].isspace():
            return False
        return self._is_space or not (is_unspaced(piece[0]) or self._ends_unspaced())

    def whole(self) -> TextTokens:
        return TextTokens("".join(self._texts), tuple(self._tokens))

    def _ends_unspaced(self) -> bool:
        """Tell whether the last letter or digit, or a sign after it, is of a script without spaces."""
        return is_unspaced(self._last) or (bool(self._spoken) and is_unspaced(self._spoken))


def joined(pieces: Iterable[TextTokens]) -> list[TextTokens]:
    """Join pieces, each of whole characters, into words; every token is in one of them, in order.

    White space and punctuation are a word where there is no other to put them to, and so are tokens without
    text.
    """
    return [word.whole() for word in _words(_with_text(pieces))]


def _words(pieces: Iterable[TextTokens]) -> Iterator[_Run]:
    word: _Run | None = None
    held: _Run | None = None  # punctuation that may belong to what follows
    for piece in pieces:
        is_mark = _is_punctuation(piece.text)
        if held and word and piece.text[:1].isspace() and not held.opens:
            word.append(held.whole())
            held = None
        if is_mark and (held or not word or word.may_open(piece.text)):
            held = held or _Run()
            held.append(piece)
            continue
        if held or not word or not (is_mark or word.goes_on(piece.text)):
            if word:
                yield word
            word, held = held or _Run(), None
        word.append(piece)
    if held and word:
        word.append(held.whole())
    last = word or held
    if last:
        yield last


def _with_text(pieces: Iterable[TextTokens]) -> Iterator[TextTokens]:
    """Join pieces that say nothing with those after them; at the end with the last one."""
    found = _Run()
    for piece in pieces:
        if found.has_text and piece.text:
            yield found.whole()
            found = _Run()
        found.append(piece)
    if (last := found.whole()).tokens:
        yield last


def _is_punctuation(text: str) -> bool:
    marks = "".join(text.split())
    return bool(marks) and all(unicodedata.category(mark).startswith("P") for mark in marks)


def _opens(marks: str) -> bool:
    """Tell whether punctuation opens what follows, even with a space between."""
    return all(unicodedata.category(mark) in _OPENING for mark in marks if not mark.isspace())


def is_unspaced(char: str) -> bool:
    """Tell whether a character is of a script that writes no spaces between words."""
    block = bisect.bisect_right(_FIRSTS, ord(char)) - 1
    return block >= 0 and ord(char) <= _UNSPACED[block][1]
