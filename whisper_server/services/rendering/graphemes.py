"""Text -> grapheme clusters, each what a reader takes for one character, and the columns that they take.

Pure. The clusters are Unicode's (UAX #29): flags, skin tones, families, keycaps, syllables of Hangul jamo
and Indic conjuncts are one each. Columns are those of a terminal: at most two for a cluster.
"""

from __future__ import annotations

import unicodedata

import regex

# Two regional indicators are a flag. \X alone counts, at each of them, those before it: 20 s for 10^5.
_CLUSTER = regex.compile(
    r"[\U0001F1E6-\U0001F1FF]{2}[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*+|\X", regex.VERSION1
)
_EMOJI_STYLE = regex.compile(r"\p{Emoji}\N{VARIATION SELECTOR-16}", regex.VERSION1)


def clusters(text: str) -> list[str]:
    """Cut a text into its grapheme clusters; joined, they are the text."""
    found: list[str] = _CLUSTER.findall(text)
    return found


def width(text: str) -> int:
    """Return the columns that a text takes: two for full-width characters and emoji, none for marks."""
    return len(text) if text.isascii() else sum(map(_cluster_width, clusters(text)))


def _cluster_width(cluster: str) -> int:
    if _EMOJI_STYLE.search(cluster):
        return 2
    return min(sum(map(_char_width, cluster)), 2)


def _char_width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
