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

    def __add__(self, other: TextTokens) -> TextTokens:
        """Join two that follow each other."""
        return TextTokens(self.text + other.text, self.tokens + other.tokens)


def joined(pieces: Iterable[TextTokens]) -> list[TextTokens]:
    """Join pieces, each of whole characters, into words; every token is in one of them, in order.

    White space and punctuation are a word where there is no other to put them to, and so are tokens without
    text.
    """
    words: list[TextTokens] = []
    held: TextTokens | None = None  # punctuation that may belong to what follows
    for piece in _with_text(pieces):
        is_mark = _is_punctuation(piece.text)
        if held and words and piece.text[:1].isspace() and not _opens(held.text):
            words[-1] += held
            held = None
        if is_mark and (held or not words or _may_open(words[-1].text, piece.text)):
            held = held + piece if held else piece
        elif held:
            words.append(held + piece)
            held = None
        elif words and (is_mark or _goes_on(words[-1].text, piece.text)):
            words[-1] += piece
        else:
            words.append(piece)
    if held:
        words[-1:] = [words[-1] + held] if words else [held]
    return words


def _with_text(pieces: Iterable[TextTokens]) -> Iterator[TextTokens]:
    """Join pieces that say nothing with those after them; at the end with the last one."""
    found: TextTokens | None = None
    for piece in pieces:
        if found and found.text and piece.text:
            yield found
            found = None
        found = found + piece if found else piece
    if found:
        yield found


def _is_punctuation(text: str) -> bool:
    marks = "".join(text.split())
    return bool(marks) and all(unicodedata.category(mark).startswith("P") for mark in marks)


def _opens(marks: str) -> bool:
    """Tell whether punctuation opens what follows, even with a space between."""
    return all(unicodedata.category(mark) in _OPENING for mark in marks if not mark.isspace())


def _may_open(before: str, marks: str) -> bool:
    """Tell whether punctuation begins a new word, rather than going on with the one before it."""
    if marks[0].isspace():
        return True
    return _opens(marks) and unicodedata.category(marks[0]) != "Pd" and _ends_unspaced(before)


def _goes_on(before: str, piece: str) -> bool:
    """Tell whether a piece goes on with the word before it."""
    if unicodedata.category(piece[0]).startswith("M") or _JOINER in (piece[0], before[-1]):
        return True
    if piece[0].isspace():
        return False
    return before.isspace() or not (is_unspaced(piece[0]) or _ends_unspaced(before))


def _ends_unspaced(text: str) -> bool:
    """Tell whether the last letter or digit, or a sign after it, is of a script without spaces."""
    spoken = next((char for char in reversed(text) if char.isalnum()), "")
    return is_unspaced(text[-1]) or (bool(spoken) and is_unspaced(spoken))


def is_unspaced(char: str) -> bool:
    """Tell whether a character is of a script that writes no spaces between words."""
    block = bisect.bisect_right(_FIRSTS, ord(char)) - 1
    return block >= 0 and ord(char) <= _UNSPACED[block][1]
