"""Segments and turns -> segments of one speaker each: every word goes to whom it overlaps most with.

Pure. Joined, the texts are what they were; so are tokens and scores.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, pairwise

from whisper_server.core.types import Segment, TokenScore, Turn, Word

NOBODY = "A"  # who says what is said where no voice was found at all


class Speaking:
    """Who speaks when, to be asked for stretches."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        """Take turns by start."""
        self._turns = turns
        self._starts = [turn.start_s for turn in turns]
        self._latest_s = list(accumulate((turn.end_s for turn in turns), max))  # end of any turn up to there

    def during(self, start_s: float, end_s: float) -> str | None:
        """Return who speaks for most of a stretch; where nobody does, who spoke or speaks nearest to it."""
        last = bisect_right(self._starts, end_s)
        shares: dict[str, float] = {}
        nearest: tuple[float, str] | None = None
        for turn in self._around(last, start_s):
            overlap_s = min(end_s, turn.end_s) - max(start_s, turn.start_s)
            if overlap_s > 0:
                shares[turn.speaker] = shares.get(turn.speaker, 0.0) + overlap_s
            elif nearest is None or -overlap_s < nearest[0]:
                nearest = (-overlap_s, turn.speaker)
        if shares:
            return max(shares, key=lambda speaker: shares[speaker])
        return None if nearest is None else nearest[1]

    def _around(self, last: int, start_s: float) -> Iterator[Turn]:
        """Yield the turns that may overlap with what starts then, the last before, and one after."""
        if last < len(self._turns):
            yield self._turns[last]
        for place in range(last - 1, -1, -1):
            yield self._turns[place]
            if self._latest_s[place] <= start_s and self._turns[place].end_s == self._latest_s[place]:
                break


def with_speakers(segments: Sequence[Segment], turns: Sequence[Turn]) -> list[Segment]:
    """Return the segments cut where the speaker changes, each with its speaker."""
    speaking = Speaking(turns)
    return [part for segment in segments for part in _parts(segment, speaking)]


def _parts(segment: Segment, speaking: Speaking) -> list[Segment]:
    whole = speaking.during(segment.start_s, segment.end_s) or NOBODY
    if not segment.words:
        return [replace(segment, speaker=whole)]
    speakers: list[str] = []
    for word in segment.words:
        is_said = any(char.isalnum() for char in word.text)
        found = speaking.during(word.start_s, word.end_s) if is_said or not speakers else speakers[-1]
        speakers.append(found or whole)
    groups = [
        (speaker, tuple(word for _, word in group))
        for speaker, group in groupby(zip(speakers, segment.words, strict=True), key=lambda each: each[0])
    ]
    cuts = _cuts(segment.text, [words for _, words in groups])
    if cuts is None:
        return [replace(segment, speaker=max(speakers, key=speakers.count))]
    texts = [segment.text[first:end] for first, end in pairwise(cuts)]
    dealt = _dealt(segment, texts)
    last = len(groups) - 1
    return [
        replace(
            segment,
            start_s=segment.start_s if i == 0 else words[0].start_s,
            end_s=segment.end_s if i == last else max(words[0].start_s, words[-1].end_s),
            text=texts[i],
            tokens=dealt[i][0],
            words=words,
            scores=dealt[i][1],
            speaker=speaker,
        )
        for i, (speaker, words) in enumerate(groups)
    ]


def _dealt(segment: Segment, texts: Sequence[str]) -> list[tuple[tuple[int, ...], tuple[TokenScore, ...]]]:
    """Return the tokens and the scores of each part of the text; a token goes where its first byte is.

    Timestamps, which have the highest numbers and no score, go with the text token before them.
    """
    ends = list(accumulate(len(text.encode()) for text in texts))
    by_number = sorted(range(len(segment.tokens)), key=lambda place: segment.tokens[place])
    is_text = set(by_number[: len(segment.scores)])
    dealt: list[tuple[list[int], list[TokenScore]]] = [([], []) for _ in texts]
    part, n_bytes, n_scores = 0, 0, 0
    for place, token in enumerate(segment.tokens):
        if place in is_text:
            while part < len(texts) - 1 and n_bytes >= ends[part]:
                part += 1
            score = segment.scores[n_scores]
            dealt[part][1].append(score)
            n_bytes, n_scores = n_bytes + len(score.data), n_scores + 1
        dealt[part][0].append(token)
    return [(tuple(tokens), tuple(scores)) for tokens, scores in dealt]


def _cuts(text: str, groups: Sequence[tuple[Word, ...]]) -> list[int] | None:
    """Return where the text of each group begins, and its end; None where the words do not spell the text."""
    cuts, position = [0], 0
    for number, words in enumerate(groups):
        for place, word in enumerate(words):
            found = text.find(word.text, position)
            if found < 0:
                return None
            if number and not place:
                cuts.append(len(text[:found].rstrip()))
            position = found + len(word.text)
    return [*cuts, len(text)]
