"""What was said against what was heard: words or characters, errors by kind, word times; pure.

Texts are compared as the field compares them: after Whisper's own normalisers (whisper-normalizer: numbers,
contractions, spelling, fillers for English, marks and punctuation for the others), aligned by jiwer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

# Written without spaces: characters are counted there, as in Whisper's paper (arXiv 2212.04356, appendix C).
WITHOUT_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "my"})

Timed: TypeAlias = Sequence[tuple[str, float, float]]  # (word, start, end) in seconds of the file


@dataclass(frozen=True, slots=True)
class Edits:
    """Units (words or characters) that were said, and how many were heard wrong; sums of files are sums."""

    units: int = 0
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            self.units + other.units,
            self.substituted + other.substituted,
            self.deleted + other.deleted,
            self.inserted + other.inserted,
        )

    @property
    def errors(self) -> int:
        return self.substituted + self.deleted + self.inserted

    @property
    def percent(self) -> float:
        """Errors of 100 units; not a number where nothing was said."""
        return 100 * self.errors / self.units if self.units else float("nan")


def total(edits: Iterable[Edits]) -> Edits:
    """Return the sum of several files."""
    return sum(edits, Edits())


def units(text: str, language: str | None) -> list[str]:
    """Return what is counted: normalised words, characters where a language has no spaces.

    Characters of Chinese are compared in their simplified form. `language` may name two: `en+zh`.
    """
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")  # contractions of English are known by it
    codes = set((language or "").split("+"))
    if codes & {"zh", "yue"}:
        import zhconv

        text = zhconv.convert(text, "zh-cn")
    if codes == {"en"}:
        normalised = _normaliser("english")(text)
    else:
        normalised = _normaliser("characters" if codes & WITHOUT_SPACES else "words")(text)
    return normalised.split()


@cache
def _normaliser(which: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    if which == "english":
        return EnglishTextNormalizer()
    return BasicTextNormalizer(split_letters=which == "characters")


def edits(said: Sequence[str], heard: Sequence[str]) -> Edits:
    """Return the fewest edits that make what was said of what was heard."""
    if not said or not heard:
        return Edits(len(said), 0, len(said), len(heard))
    found = _aligned(said, heard)
    return Edits(len(said), found.substitutions, found.deletions, found.insertions)


def matches(said: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Return the units that were heard right: pairs of their numbers in what was said and what was heard."""
    if not said or not heard:
        return []
    return [
        (chunk.ref_start_idx + step, chunk.hyp_start_idx + step)
        for chunk in _aligned(said, heard).alignments[0]
        if chunk.type == "equal"
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def _aligned(said: Sequence[str], heard: Sequence[str]) -> Any:
    import jiwer

    return jiwer.process_words(" ".join(said), " ".join(heard))


def time_errors_s(
    transcript: str, times_s: Sequence[tuple[float, float]], heard: Timed, language: str | None
) -> list[tuple[float, float]]:
    """Return how much later than in truth the words that were heard right start and end (s).

    Raises:
        ValueError: `times_s` are not those of the words of the transcript.
    """
    truth = [(word, *span) for word, span in zip(transcript.split(), times_s, strict=True)]
    said_units, heard_units = _timed_units(truth, language), _timed_units(heard, language)
    pairs = matches([word for word, _, _ in said_units], [word for word, _, _ in heard_units])
    return [
        (heard_units[theirs][1] - said_units[ours][1], heard_units[theirs][2] - said_units[ours][2])
        for ours, theirs in pairs
    ]


def _timed_units(words: Timed, language: str | None) -> list[tuple[str, float, float]]:
    """Return each word as it is counted; several units of one word share its time."""
    return [(unit, start, end) for word, start, end in words for unit in units(word, language)]


def misplaced(words: Timed, seconds: float | None, tolerance_s: float = 0.05) -> int:
    """Return how many words begin before the one before them, end before they begin, or end after the file.

    Times are rounded to hundredths and containers to frames: hence the tolerance at the end of the file.
    """
    before_s, found = 0.0, 0
    for _, start, end in words:
        is_late = seconds is not None and end > seconds + tolerance_s
        found += start < before_s or end < start or is_late
        before_s = start
    return found
