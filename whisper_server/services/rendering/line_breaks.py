"""Text -> pieces that may stand on different lines, and how much a break after each disturbs a reader.

Pure; knows nothing of times, cues or formats. What may be broken where is read off the characters, not
off the language: "iPhoneを使う" is two scripts in one line. The order of preference is that of
broadcasters' guidelines (the BBC's Subtitle Guidelines, Netflix's Timed Text Style Guide): the end of a
sentence, other punctuation, then between words, and no line that ends on an article or a preposition.
In scripts without spaces a line ends with a phrase, where there is a model that knows them (`phrases`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from whisper_server.services.rendering import phrases
from whisper_server.services.rendering.graphemes import clusters, width

# How much a break disturbs: only their order and rough distance matter.
SENTENCE, CLAUSE, BETWEEN_WORDS, AFTER_SHORT_WORD = 0.0, 0.35, 1.0, 1.3
INSIDE_PHRASE, TORN_PHRASE, INSIDE_LOANWORD, INSIDE_WORD = 1.6, 2.2, 2.5, 3.0

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
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KATAKANA = re.compile("[\u30a1-\u30fc]")
_HIRAGANA = re.compile("[\u3041-\u309f]")
# Beside punctuation: small kana, length and repetition marks, Thai and Lao vowels written after.
_NEVER_FIRST = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー々ゝゞヽヾ～％℃ๆฯะาำๅະາຳ")  # noqa: RUF001
_NEVER_LAST = frozenset("เแโใไເແໂໃໄ＄￥")  # noqa: RUF001  (Thai and Lao vowels written before)
_PARTICLES = frozenset("的了吗嗎呢吧们們")  # of Chinese, which belong to the Han character before them
_KILLER = "\N{MYANMAR SIGN ASAT}"  # its consonant ends the syllable before it
_HYPHENS = frozenset("-/–—")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that stays on one line."""

    text: str
    has_space: bool  # before it, where it does not start a line
    width: int  # columns
    strain: float  # of a break after it: SENTENCE ... INSIDE_WORD


def pieces(text: str, max_width: int, language: str = "") -> list[Piece]:
    """Cut a text into pieces of at most `max_width` columns, which must be at least 2.

    `language` helps where the characters alone do not tell Japanese from Chinese.
    """
    model = phrases.east_asian_model(text, language)
    parts = [part for word in text.split() for part in _parts(word, max_width, model)]
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


def _parts(word: str, max_width: int, model: str) -> Iterator[tuple[str, float]]:
    """Yield what of a word stays together, each with the strain of a break before it."""
    before = BETWEEN_WORDS
    for phrase in _phrases(word, model):
        for part in [phrase] if width(phrase) <= max_width else _at_breaks(phrase):
            for whole in [part] if width(part) <= max_width else _at_hyphens(part):
                for chunk in _chunks(whole, max_width):
                    yield chunk, before
                    before = INSIDE_WORD
                before = INSIDE_PHRASE
            before = TORN_PHRASE
        before = INSIDE_PHRASE


def _phrases(word: str, model: str) -> Iterable[str]:
    """Cut text of scripts without spaces into phrases, and no other text."""
    if not _UNSPACED.search(word):
        return [word]
    starts = phrases.starts(word, model)

    def ends(left: str, right: str, at: int) -> bool:
        return _may_break(left, right) and _is_joint(left, right, at in starts)

    return _cut(word, ends)


def _at_breaks(phrase: str) -> Iterable[str]:
    """Cut text of scripts without spaces between characters, and no other text."""
    return _cut(phrase, lambda left, right, _: _may_break(left, right))


def _at_hyphens(part: str) -> Iterable[str]:
    return _cut(part, lambda left, right, _: left[0] in _HYPHENS and right[0] not in _HYPHENS)


def _cut(text: str, is_break: Callable[[str, str, int], bool]) -> Iterator[str]:
    """Cut between two grapheme clusters where `is_break(left, right, offset of right)` says so."""
    start = at = 0
    last = ""
    for cluster in clusters(text):
        if last and is_break(last, cluster, at):
            yield text[start:at]
            start = at
        at += len(cluster)
        last = cluster
    yield text[start:]


def _may_break(left: str, right: str) -> bool:
    """Tell whether a line may end between two grapheme clusters that no space separates."""
    first, second = left[0], right[0]
    if not (_UNSPACED.match(first) or _UNSPACED.match(second)):
        return False
    if (first.isdigit() and second.isdigit()) or first in _NEVER_LAST or second in _NEVER_FIRST:
        return False
    if _KILLER in right or (second in _PARTICLES and _IDEOGRAPH.match(first)):
        return False
    first_kind, second_kind = unicodedata.category(first), unicodedata.category(second)
    # Vowels of Myanmar are clusters of their own, and yet marks.
    is_bound = second_kind[0] in "PM" and second_kind not in {"Ps", "Pi"}
    return first_kind not in {"Ps", "Pi"} and not is_bound


def _is_joint(left: str, right: str, is_start: bool) -> bool:
    """Tell whether a phrase ends between two grapheme clusters; `is_start` is what the model says."""
    first, second = left[0], right[0]
    if not (phrases.is_known(first) or phrases.is_known(second)):
        return True
    if _KATAKANA.match(first) and _KATAKANA.match(second):
        return is_start and first == "・"
    ends_clause = first in _SENTENCE_ENDS or first in _CLAUSE_ENDS or second in _OPENERS
    return is_start or (ends_clause and not second.isdigit())


def _chunks(part: str, max_width: int) -> Iterator[str]:
    """Tear what is longer than a line into parts of about the same length."""
    total = width(part)
    target = -(-total // -(-total // max_width)) if total > max_width else max_width
    run, run_width = "", 0
    for cluster in clusters(part):
        cluster_width = width(cluster)
        if run and run_width + cluster_width > max(target, 2):
            yield run
            run, run_width = "", 0
        run += cluster
        run_width += cluster_width
    if run:
        yield run


def _strain(left: str, right: str, between: float) -> float:
    """Return how much a break between two neighbours disturbs; `between` is what their joint alone gives."""
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
    if between == TORN_PHRASE:
        is_loanword = _KATAKANA.match(left[-1]) and _KATAKANA.match(right)
        return INSIDE_LOANWORD if is_loanword else TORN_PHRASE
    # Particles and endings are hiragana: what follows them mostly starts a new phrase.
    return BETWEEN_WORDS if _HIRAGANA.match(left[-1]) and not _HIRAGANA.match(right) else INSIDE_PHRASE


def _is_abbreviation(word: str) -> bool:
    """Tell "Dr.", "J." and the German "3." from the end of a sentence."""
    stem = word.rstrip(_CLOSING_QUOTES).removesuffix(".").lstrip("\"'«“„(").lower()
    if stem == word.lower():
        return False
    return stem in _TITLES or (len(stem) == 1 and stem.isalpha()) or (stem.isdigit() and len(stem) < 3)
