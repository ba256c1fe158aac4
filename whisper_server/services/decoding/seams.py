"""Segments of a window and those of its stretches that were decoded again -> one list, nothing twice. Pure.

A timestamp that closes a phrase too early leaves the phrase's last words to the stretch behind it, where
they are heard once more; one that closes it far too early leaves all of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

from whisper_server.core.types import Segment

MORE_TEXT = 1.5  # how many times longer a second look must be to take the place of the first
MOVED_WORDS = 3  # people do say shorter phrases twice
SAME = 0.8  # of the words, in order: the same phrase, heard twice with a word or two different


def merged(
    found: Sequence[Segment], more: Sequence[Segment], start_s: float, end_s: float, *, replaces: bool
) -> list[Segment]:
    """Put what was heard from `start_s` to `end_s`, in file time, among the segments of its window.

    Where `replaces`, a segment is there already: it stays unless the new ones say much more.
    """
    if not more:
        return list(found)
    if replaces:
        under = [each for each in found if each.start_s >= start_s - 1e-3 and each.end_s <= end_s + 1e-3]
        if _size(more) < MORE_TEXT * _size(under):
            return list(found)
        found = [each for each in found if each not in under]
    before = [each for each in found if each.start_s < start_s or each.end_s <= start_s]
    after = list(found[len(before) :])
    kept = list(more)
    if before and kept:
        before, kept = _without_repeat(before, kept)
    if after and kept and _begins(after[0].text, kept[-1].text):
        kept.pop()
    return [*before, *kept, *after]


def _without_repeat(before: list[Segment], more: list[Segment]) -> tuple[list[Segment], list[Segment]]:
    """Leave out the phrase that is said twice at a seam."""
    last = before[-1]
    if _ends(last.text, more[0].text):
        return before, more[1:]
    if len(words(last.text)) >= MOVED_WORDS and any(is_same(last.text, each.text) for each in more[1:]):
        return before[:-1], more  # its time was wrong: it lies in the stretch behind it
    return before, more


def _begins(text: str, part: str) -> bool:
    """Tell whether a text is, or begins with, another."""
    return is_same(text, part) or words(text)[: len(words(part))] == words(part)


def _ends(text: str, part: str) -> bool:
    """Tell whether a text is, or ends with, another."""
    return is_same(text, part) or words(text)[-len(words(part)) :] == words(part)


def is_same(one: str, other: str) -> bool:
    """Tell whether two texts are the same phrase, but for punctuation, case and a few words."""
    left, right = words(one), words(other)
    if max(len(left), len(right)) <= 1:  # a word, or a phrase of a language without spaces
        left, right = list("".join(left)), list("".join(right))
    return SequenceMatcher(None, left, right, autojunk=False).ratio() >= SAME


def words(text: str) -> list[str]:
    """Return the words of a text without case and punctuation."""
    return "".join(" " if unicodedata.category(char)[0] in "PSZ" else char for char in text.lower()).split()


def _size(segments: Sequence[Segment]) -> int:
    return sum(len(segment.text.strip().encode()) for segment in segments)
