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
    said = list(_said(window, decoded, tokenizer))
    if window.voice:  # else nothing speaks against any of it
        said = [
            each for each in said if belief.is_believed(each.text, _heard_s(window, each, threshold), decoded)
        ]
    words = _words(window, said, tokenizer) if decoded.token_times else [()] * len(said)
    segments: list[Segment] = []
    for each, its_words in zip(said, words, strict=True):
        start_s = window.file_time(each.phrase.start_s)
        segments.append(
            Segment(
                start_s=start_s,
                end_s=max(start_s, window.file_time(each.phrase.end_s, is_end=True)),
                text=each.text,
                tokens=each.phrase.tokens,
                temperature=decoded.temperature,
                avg_logprob=decoded.avg_logprob,
                compression_ratio=decoded.compression_ratio,
                no_speech_prob=decoded.no_speech_prob,
                language=decoded.language,
                seek_frames=round(window.start_s * FRAMES_PER_SECOND),
                words=its_words,
                scores=_scores(each.times, tokenizer),
                language_probability=decoded.language_probability,
            )
        )
    return segments


@dataclass(frozen=True, slots=True)
class _Said:
    """A phrase that says something."""

    phrase: Phrase
    text: str
    times: Sequence[TokenTime]  # with word times: of its text tokens


def _heard_s(window: Window, said: _Said, threshold: float) -> float:
    return belief.voice_s(window, said.phrase.start_s, said.phrase.end_s, threshold)


def _said(window: Window, decoded: Decoded, tokenizer: Tokenizer) -> Iterator[_Said]:
    """Yield the phrases of a window; white space alone is none."""
    taken = 0
    for phrase in phrases(decoded.tokens, window.duration_s, tokenizer):
        text_tokens = tokenizer.text_tokens(phrase.tokens)
        text = tokenizer.text(text_tokens)
        if text.strip():
            yield _Said(phrase, text, decoded.token_times[taken : taken + len(text_tokens)])
        taken += len(text_tokens)


def _between_characters(tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Put what stands inside a character, as a timestamp may, behind it; text tokens keep their order."""
    groups = iter(tokenizer.whole_characters(tokens))
    found: list[int] = []
    held: list[int] = []
    left = 0  # text tokens until the character ends
    for token in tokens:
        if tokenizer.text_tokens([token]):
            left = (left or len(next(groups).tokens)) - 1
            found.append(token)
        else:
            held.append(token)
        if not left:
            found += held
            held = []
    return found


def phrases(tokens: Sequence[int], duration_s: float, tokenizer: Tokenizer) -> Iterator[Phrase]:
    """Split at timestamp tokens; an unclosed phrase ends with the window's audio.

    A timestamp before text opens a phrase, one after text closes it, one inside a character stands behind
    that. Times that run backwards are pulled up to the time before them.
    """
    start_s, now_s = 0.0, 0.0
    run: list[int] = []
    text: list[int] = []
    for token in _between_characters(tokens, tokenizer):
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


def _scores(times: Sequence[TokenTime], tokenizer: Tokenizer) -> tuple[TokenScore, ...]:
    texts = tokenizer.token_texts([time.token for time in times])
    return tuple(
        TokenScore(text, tokenizer.token_bytes(time.token), math.log(max(time.probability, MIN_PROBABILITY)))
        for text, time in zip(texts, times, strict=True)
    )


def mean_logprob(probabilities: Sequence[float]) -> float:
    """Return the mean logarithm of probabilities, at least one."""
    return sum(math.log(max(each, MIN_PROBABILITY)) for each in probabilities) / len(probabilities)


@dataclass(frozen=True, slots=True)
class _Spoken:
    """One word of a phrase and its tokens' times."""

    text: str
    times: tuple[TokenTime, ...]


def _spoken(times: Sequence[TokenTime], tokenizer: Tokenizer) -> list[_Spoken]:
    """Split a phrase into its words; white space alone is none."""
    found: list[_Spoken] = []
    position = 0
    for piece in tokenizer.split_words([time.token for time in times]):
        mine = tuple(times[position : position + len(piece.tokens)])
        position += len(piece.tokens)
        if piece.text.strip():
            found.append(_Spoken(piece.text.strip(), mine))
    return found


def _words(window: Window, said: Sequence[_Said], tokenizer: Tokenizer) -> list[tuple[Word, ...]]:
    """Place the words of each phrase between its timestamps, which are more exact than the alignment."""
    spoken = [_spoken(each.times, tokenizer) for each in said]
    placed = word_times.place(
        word_times.loudness(window),
        [
            word_times.Phrase(
                word_times.frames(each.phrase.start_s),
                word_times.frames(each.phrase.end_s),
                [word_times.frames(word.times[0].start_s) for word in words[1:]],
                [word.text for word in words],
            )
            for each, words in zip(said, spoken, strict=True)
        ],
    )
    return [
        tuple(_word(window, each.phrase, word, place) for word, place in zip(words, places, strict=True))
        for each, words, places in zip(said, spoken, placed, strict=True)
    ]


def _word(window: Window, phrase: Phrase, word: _Spoken, place: tuple[int, int]) -> Word:
    """Return a word with the frames of the window that it lasts in file time."""
    # A seam is a place between two frames: rounded, a word would begin on one side and end on the other.
    seams = {word_times.frames(span.window_start_s): span.window_start_s for span in window.places[1:]}

    def inside(frame: int) -> float:
        return min(max(seams.get(frame, frame / FRAMES_PER_SECOND), phrase.start_s), phrase.end_s)

    start_s = window.file_time(inside(place[0]))
    return Word(
        text=word.text,
        start_s=start_s,
        end_s=max(start_s, window.file_time(inside(place[1]), is_end=True)),
        probability=sum(time.probability for time in word.times) / len(word.times),
    )
