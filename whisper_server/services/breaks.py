"""Text -> pieces that may stand on different lines, and how much a break after each disturbs a reader.

Pure; knows nothing of times, cues or formats. What may be broken where is read off the characters, not
off the language: "iPhoneを使う" is two scripts in one line. The order of preference is that of
broadcasters' guidelines (the BBC's Subtitle Guidelines, Netflix's Timed Text Style Guide): the end of a
sentence, other punctuation, then between words, and no line that ends on an article or a preposition.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

# How much a break disturbs: only their order and rough distance matter.
SENTENCE, CLAUSE, BETWEEN_WORDS, AFTER_SHORT_WORD = 0.0, 0.35, 1.0, 1.3
INSIDE_PHRASE, INSIDE_LOANWORD, INSIDE_WORD = 1.6, 2.5, 3.0

_SENTENCE_ENDS = frozenset(".!?…。！？｡؟।॥")  # noqa: RUF001  (other scripts' own)
_CLAUSE_ENDS = frozenset(",;:–—)]、，；：､،؛）」』")  # noqa: RUF001
_CLOSING_QUOTES = "\"'»”’」』)]）"  # noqa: RUF001
_OPENERS = frozenset("([{«“„（「『–—")  # noqa: RUF001
_TITLES = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "hr", "fr", "sr", "sra", "mme", "nr", "vs", "bzw", "ca"}
)
_SHORT_WORD = 3  # columns: articles and prepositions of most languages that have them
# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, ideographs, full-width forms.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]"
)
_KATAKANA = re.compile("[\u30a1-\u30fc]")
_HIRAGANA = re.compile("[\u3041-\u309f]")
# Beside punctuation: small kana, length and repetition marks, Thai and Lao vowels written after.
_NEVER_FIRST = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー々ゝゞヽヾ～％℃ๆฯะาำๅະາຳ")  # noqa: RUF001
_NEVER_LAST = frozenset("เแโใไເແໂໃໄ＄￥")  # noqa: RUF001  (Thai and Lao vowels written before)
_HYPHENATED = re.compile(r"[^-/–—]*[-/–—]+|[^-/–—]+")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that stays on one line."""

    text: str
    has_space: bool  # before it, where it does not start a line
    width: int  # columns
    strain: float  # of a break after it: SENTENCE ... INSIDE_WORD


def width(text: str) -> int:
    """Return the columns that a text takes: two for full-width characters, none for combining marks."""
    return sum(_char_width(char) for char in text)


def pieces(text: str, max_width: int) -> list[Piece]:
    """Cut a phrase into pieces of at most `max_width` columns, which must be at least 2."""
    parts = [part for word in text.split() for part in _parts(word, max_width)]
    rights = [*parts, ("", BETWEEN_WORDS)][1:]
    found = []
    for (left, before), (right, between) in zip(parts, rights, strict=True):
        strain = _strain(left, right, between)
        # The end of the text is one of a phrase, whatever it ends on.
        strain = strain if right else min(strain, CLAUSE)
        found.append(Piece(left, before == BETWEEN_WORDS, width(left), strain))
    first_has_space = text[:1].isspace() or not _UNSPACED.match(text)
    return [Piece(p.text, p.has_space and (i > 0 or first_has_space), p.width, p.strain)
            for i, p in enumerate(found)]  # fmt: skip


def _char_width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _clusters(word: str) -> list[str]:
    """Group characters with the marks and joiners that belong to them."""
    clusters: list[str] = []
    for char in word:
        is_mark = unicodedata.category(char) in {"Mn", "Me", "Mc", "Cf"}
        if clusters and (is_mark or clusters[-1].endswith("\N{ZERO WIDTH JOINER}")):
            clusters[-1] += char
        else:
            clusters.append(char)
    return clusters


def _parts(word: str, max_width: int) -> Iterator[tuple[str, float]]:
    """Yield what of a word stays together, each with the strain of a break before it."""
    before = BETWEEN_WORDS
    for part in _at_breaks(word):
        hyphenated = [part] if width(part) <= max_width else _HYPHENATED.findall(part)
        for whole in hyphenated:
            for chunk in _chunks(whole, max_width):
                yield chunk, before
                before = INSIDE_WORD
            before = INSIDE_PHRASE


def _at_breaks(word: str) -> Iterator[str]:
    """Cut text of scripts without spaces between characters, the rest nowhere."""
    run = ""
    last = ""
    for cluster in _clusters(word):
        if last and _may_break(last[0], cluster[0]):
            yield run
            run = ""
        run += cluster
        last = cluster
    if run:
        yield run


def _may_break(left: str, right: str) -> bool:
    """Tell whether a line may end between two characters that no space separates."""
    if not (_UNSPACED.match(left) or _UNSPACED.match(right)):
        return False
    if (left.isdigit() and right.isdigit()) or left in _NEVER_LAST or right in _NEVER_FIRST:
        return False
    is_opened = unicodedata.category(left) in {"Ps", "Pi"}
    right_kind = unicodedata.category(right)
    return not is_opened and not (right_kind.startswith("P") and right_kind not in {"Ps", "Pi"})


def _chunks(part: str, max_width: int) -> Iterator[str]:
    """Tear what is longer than a line into parts of about the same length."""
    total = width(part)
    target = -(-total // -(-total // max_width)) if total > max_width else max_width
    run, run_width = "", 0
    for cluster in _clusters(part):
        cluster_width = width(cluster)
        if run and run_width + cluster_width > max(target, 2):
            yield run
            run, run_width = "", 0
        run += cluster
        run_width += cluster_width
    if run:
        yield run


def _strain(left: str, right: str, between: float) -> float:
    """Say how much a break between two neighbours disturbs; `between` is what their joint alone says."""
    if between == INSIDE_WORD:
        return INSIDE_WORD
    end = (left.rstrip(_CLOSING_QUOTES) or left)[-1]
    if end in _SENTENCE_ENDS and not _is_abbreviation(left):
        return SENTENCE
    if end in _CLAUSE_ENDS or left[-1] in _CLAUSE_ENDS or right[:1] in _OPENERS:
        return CLAUSE
    if between == BETWEEN_WORDS:
        # Scripts without spaces between words put them between phrases.
        is_short = width(left) <= _SHORT_WORD
        return CLAUSE if _UNSPACED.match(left[-1]) else AFTER_SHORT_WORD if is_short else BETWEEN_WORDS
    return _strain_unspaced(left[-1], right)


def _strain_unspaced(left: str, right: str) -> float:
    if _KATAKANA.match(left) and _KATAKANA.match(right):
        return INSIDE_LOANWORD
    # Particles and endings are hiragana: what follows them mostly starts a new phrase.
    return BETWEEN_WORDS if _HIRAGANA.match(left) and not _HIRAGANA.match(right) else INSIDE_PHRASE


def _is_abbreviation(word: str) -> bool:
    """Tell "Dr.", "J." and the German "3." from the end of a sentence."""
    stem = word.rstrip(_CLOSING_QUOTES).removesuffix(".").lstrip("\"'«“„(").lower()
    if stem == word.lower():
        return False
    return stem in _TITLES or (len(stem) == 1 and stem.isalpha()) or (stem.isdigit() and len(stem) < 3)
