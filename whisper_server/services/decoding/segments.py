"""(Window, Decoded) -> Segments: timestamp tokens and word alignments become file time.

Pure; the only place where window time turns into file time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whisper_server.core.types import FRAMES_PER_SECOND, Decoded, Segment, TokenScore, TokenTime, Window, Word
from whisper_server.services.decoding import belief, word_times
from whisper_server.services.engines.tokenizer import Tokenizer

MIN_PROBABILITY = 1e-10  # has a logarithm, and JSON can say it


@dataclass(frozen=True, slots=True)
class Phrase:
    """Text tokens between two timestamp tokens, in window time."""

    start_s: float
    end_s: float
    tokens: tuple[int, ...]


def of(
    window: Window, decoded: Decoded, tokenizer: Tokenizer, threshold: float = belief.VOICE_THRESHOLD
) -> list[Segment]:
    """Return the segments of one window in file time; none where it is silence or not to be believed.

    Times run forward and stay inside the window's speech, whatever the model wrote. With word times it
    takes some milliseconds: keep it off the event loop.
    """
    if decoded.is_silence:
        return []
    loud = word_times.loudness(window) if decoded.token_times else None
    segments: list[Segment] = []
    taken = 0
    for phrase in phrases(decoded.tokens, window.duration_s, tokenizer):
        text_tokens = tokenizer.text_tokens(phrase.tokens)
        text = tokenizer.text(text_tokens)
        times = decoded.token_times[taken : taken + len(text_tokens)]
        taken += len(text_tokens)
        if not text.strip():
            continue
        if not belief.is_believed(window, phrase.start_s, phrase.end_s, decoded, threshold):
            continue
        start_s = window.file_time(phrase.start_s)
        segments.append(
            Segment(
                start_s=start_s,
                end_s=max(start_s, window.file_time(phrase.end_s, is_end=True)),
                text=text,
                tokens=phrase.tokens,
                temperature=decoded.temperature,
                avg_logprob=decoded.avg_logprob,
                compression_ratio=decoded.compression_ratio,
                no_speech_prob=decoded.no_speech_prob,
                language=decoded.language,
                seek_frames=round(window.start_s * FRAMES_PER_SECOND),
                words=_words(window, loud, phrase, _spoken(times, decoded.language, tokenizer))
                if loud
                else (),
                scores=tuple(_score(time, tokenizer) for time in times),
            )
        )
    return segments


def phrases(tokens: Sequence[int], duration_s: float, tokenizer: Tokenizer) -> Iterator[Phrase]:
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
            yield Phrase(start_s, now_s, tuple(run))
            run, text = [], []
        else:
            run = [token]
        start_s = now_s
    if text:
        yield Phrase(start_s, duration_s, tuple(run))


def _score(time: TokenTime, tokenizer: Tokenizer) -> TokenScore:
    data = tokenizer.token_bytes(time.token)
    return TokenScore(data.decode("utf-8", "replace"), data, math.log(max(time.probability, MIN_PROBABILITY)))


@dataclass(frozen=True, slots=True)
class _Spoken:
    """One word of a phrase and its tokens' times."""

    text: str
    times: tuple[TokenTime, ...]


def _spoken(times: Sequence[TokenTime], language: str, tokenizer: Tokenizer) -> list[_Spoken]:
    """Split a phrase into its words; white space alone is none."""
    found: list[_Spoken] = []
    position = 0
    for piece in tokenizer.split_words([time.token for time in times], language):
        mine = tuple(times[position : position + len(piece.tokens)])
        position += len(piece.tokens)
        if piece.text.strip():
            found.append(_Spoken(piece.text.strip(), mine))
    return found


def _words(
    window: Window, loud: word_times.Loudness, phrase: Phrase, spoken: Sequence[_Spoken]
) -> tuple[Word, ...]:
    """Place the words of a phrase between its timestamps, which are more exact than the alignment."""
    placed = word_times.place(
        loud,
        word_times.frames(phrase.start_s),
        word_times.frames(phrase.end_s),
        [word_times.frames(word.times[0].start_s) for word in spoken[1:]],
        [word.text for word in spoken],
    )

    # A seam is a place between two frames: rounded, a word would begin on one side and end on the other.
    seams = {word_times.frames(place.window_start_s): place.window_start_s for place in window.places[1:]}

    def inside(frame: int) -> float:
        return min(max(seams.get(frame, frame / FRAMES_PER_SECOND), phrase.start_s), phrase.end_s)

    return tuple(
        Word(
            text=word.text,
            start_s=(start_s := window.file_time(inside(start))),
            end_s=max(start_s, window.file_time(inside(end), is_end=True)),
            probability=sum(time.probability for time in word.times) / len(word.times),
        )
        for word, (start, end) in zip(spoken, placed, strict=True)
    )
