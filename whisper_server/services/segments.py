"""(Window, Decoded) -> Segments: timestamp tokens and word alignments become file time.

Pure; the only place where window time turns into file time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from whisper_server.core.types import Decoded, Segment, TokenTime, Window, Word
from whisper_server.services.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Text tokens between two timestamp tokens, in window time."""

    start_s: float
    end_s: float
    tokens: tuple[int, ...]


def of(window: Window, decoded: Decoded, tokenizer: Tokenizer) -> list[Segment]:
    """Return the segments of one window in file time; none where the model heard silence.

    Times run forward and stay inside the window's speech, whatever the model wrote.
    """
    if decoded.is_silence:
        return []
    segments: list[Segment] = []
    taken = 0
    for phrase in _phrases(decoded.tokens, window.duration_s, tokenizer):
        text_tokens = tokenizer.text_tokens(phrase.tokens)
        text = tokenizer.text(text_tokens)
        times = _inside(phrase, decoded.token_times[taken : taken + len(text_tokens)])
        taken += len(text_tokens)
        if not text.strip():
            continue
        segments.append(
            Segment(
                start_s=window.file_time(phrase.start_s),
                end_s=window.file_time(phrase.end_s, is_end=True),
                text=text,
                tokens=phrase.tokens,
                temperature=decoded.temperature,
                avg_logprob=decoded.avg_logprob,
                compression_ratio=decoded.compression_ratio,
                no_speech_prob=decoded.no_speech_prob,
                language=decoded.language,
                seek_frames=round(window.start_s * 100),
                words=_words(window, times, decoded.language, tokenizer),
            )
        )
    return segments


def _phrases(tokens: Sequence[int], duration_s: float, tokenizer: Tokenizer) -> Iterator[_Phrase]:
    """Split at timestamp tokens; an unclosed phrase ends with the window's audio.

    A timestamp before text opens a phrase, one after text closes it. Times that run backwards are
    pulled up to the time before them.
    """
    start_s, now_s = 0.0, 0.0
    run: list[int] = []
    text: list[int] = []
    for token in tokens:
        run.append(token)
        if not tokenizer.is_timestamp(token):
            text.append(token)
            continue
        now_s = min(max(tokenizer.seconds(token), now_s), duration_s)
        if text:
            yield _Phrase(start_s, now_s, tuple(run))
            run, text = [], []
        else:
            run = [token]
        start_s = now_s
    if text:
        yield _Phrase(start_s, duration_s, tuple(run))


def _inside(phrase: _Phrase, times: Sequence[TokenTime]) -> list[TokenTime]:
    """Keep token times inside their phrase, whose timestamp tokens are the more exact of the two.

    The alignment knows only where attention moves on: it gives a pause to the word after it, and lets
    the last word end anywhere.
    """
    kept: list[TokenTime] = []
    for index, time in enumerate(times):
        is_last = index == len(times) - 1
        start_s = min(max(time.start_s, phrase.start_s), phrase.end_s)
        end_s = phrase.end_s if is_last else min(max(time.end_s, start_s), phrase.end_s)
        kept.append(replace(time, start_s=start_s, end_s=end_s))
    return kept


def _words(
    window: Window, times: Sequence[TokenTime], language: str, tokenizer: Tokenizer
) -> tuple[Word, ...]:
    """Join token times into words in file time."""
    words: list[Word] = []
    position = 0
    for piece in tokenizer.split_words([time.token for time in times], language):
        mine = times[position : position + len(piece.tokens)]
        position += len(piece.tokens)
        if not piece.text.strip():
            continue
        start_s = window.file_time(mine[0].start_s)
        words.append(
            Word(
                text=piece.text.strip(),
                start_s=start_s,
                end_s=max(start_s, window.file_time(mine[-1].end_s, is_end=True)),
                probability=sum(time.probability for time in mine) / len(mine),
            )
        )
    return tuple(words)
