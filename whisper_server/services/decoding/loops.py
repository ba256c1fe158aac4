"""A text that repeats itself without end -> the same text with one round of each loop; pure.

For texts that looped in every attempt, as their compression ratio says. A loop is told from what people
repeat (a "no, no, no", a chorus, a refrain) by how often and how long it goes on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper_server.services.engines.tokenizer import Tokenizer
    from whisper_server.services.engines.words import TextTokens

# People say a thing two or three times; a loop goes on to the end of its window. So many rounds, and so many
# words in all of them (characters in languages without spaces), are a loop.
MIN_ROUNDS = 4
MIN_WORDS = 16

# People say up to 10 tokens a second where a token is a word or a syllable, more where it is a part of a
# character; loops have more.
TOKENS_PER_S = 25.0
SPARE_TOKENS = 12  # timestamps, and a short word that was said quickly


def most_tokens(duration_s: float) -> int:
    """Return how many tokens so much speech may have."""
    return int(SPARE_TOKENS + TOKENS_PER_S * duration_s)


def cut(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the tokens of a window with the first round of each loop only: whole words, whole characters.

    A phrase without words loses its timestamps, the others keep theirs: times still run forward.
    """
    words = list(_units(tokens, tokenizer))
    keeps = rounds_kept([_key(word.text) for word in words])
    of_tokens = iter([keep for word, keep in zip(words, keeps, strict=True) for _ in word.tokens])
    times: list[list[int]] = [[]]  # before the first phrase, between two, after the last
    texts: list[list[int]] = []
    is_after_time = True
    for token in tokens:
        if tokenizer.is_timestamp(token):
            if not is_after_time:
                times.append([])
            times[-1].append(token)
            is_after_time = True
        elif token < tokenizer.end:
            if is_after_time:
                texts.append([])
            if next(of_tokens):
                texts[-1].append(token)
            is_after_time = False
    if not is_after_time:
        times.append([])  # the last phrase is not closed
    return tuple(_joined(times, texts))


def _units(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[TextTokens]:
    """Yield words; of one with as many tokens as a loop ("¶¶¶¶", "hahaha"), its characters."""
    for word in tokenizer.split_words(tokens):
        if len(word.tokens) < MIN_WORDS:
            yield word
        else:
            yield from tokenizer.whole_characters(word.tokens)


def _joined(times: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[int]:
    """Join phrases and their timestamps; `times` has one more. An empty phrase takes its two along."""
    result: list[int] = []
    before = list(times[0])
    for text, after in zip(texts, times[1:], strict=True):
        if text:
            result += [*before, *text]
            before = list(after)
        else:
            # A lone timestamp closes one phrase and opens the next: it stays for the one before.
            before = [*(before[:-1] if len(before) > 1 or not result else before), *after[1:]]
    return result + before


def rounds_kept(words: Sequence[str]) -> list[bool]:
    """Tell, for each word, whether it is outside of loops or in the first round of one.

    What a window leaves of a round at its end is in no first round.
    """
    keeps = [True] * len(words)
    at = 0
    while at < len(words):
        period = _period(words, at)
        if not period:
            at += 1
            continue
        end = at + period * _rounds(words, at, period)
        rest = words[end:]
        if _begins(words[at : at + period], rest):
            end = len(words)
        keeps[at + period : end] = [False] * (end - at - period)
        at = end
    return keeps


def _period(words: Sequence[str], at: int) -> int:
    """Return how many words one round of the loop that starts at word `at` has; 0: there is none."""
    for period in range(1, (len(words) - at) // MIN_ROUNDS + 1):
        rounds = _rounds(words, at, period)
        if rounds >= MIN_ROUNDS and rounds * period >= MIN_WORDS:
            return period
    return 0


def _rounds(words: Sequence[str], at: int, period: int) -> int:
    """Return how often in a row the `period` words at `at` come."""
    one = words[at : at + period]
    rounds = 1
    while words[at + rounds * period : at + (rounds + 1) * period] == one:
        rounds += 1
    return rounds


def _begins(one: Sequence[str], rest: Sequence[str]) -> bool:
    """Tell whether `rest` is the beginning of a round that breaks off, maybe inside a word."""
    if not rest or len(rest) > len(one):
        return False
    return rest[:-1] == one[: len(rest) - 1] and one[len(rest) - 1].startswith(rest[-1])


def _key(text: str) -> str:
    """Return what makes a word the same as another: no case, no punctuation."""
    bare = "".join(c for c in text.casefold() if unicodedata.category(c)[0] not in "PZ")
    return bare or text.strip()
