"""Windows of one batch -> Decoded: language, prompt, temperature fallback, word times; for all engines.

The rules and thresholds are those of "Robust Speech Recognition via Large-Scale Weak Supervision"
(Radford et al., 2022), section 4.5, as openai/whisper's `decode_with_fallback` has them. Runs on the
scheduler's thread; knows nothing of requests, files or queues.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whisper_server.core.errors import EngineFailure, InvalidRequest
from whisper_server.core.types import (
    MIN_VOICE_S,
    WINDOW_FRAMES,
    Decoded,
    DecodeOptions,
    TokenTime,
    WindowJob,
)
from whisper_server.services.decoding import loops, seeds
from whisper_server.services.decoding.belief import is_sure, spoken_s
from whisper_server.services.decoding.language import Heard, among
from whisper_server.services.decoding.prompts import is_doubtful, is_harmed
from whisper_server.services.engines.base import Encoded, Engine, Hypothesis, IsWanted, Sampling, everything


def compression_ratio(text: str) -> float:
    """Return how many times smaller zlib makes the text: repetition shows as a high ratio."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def is_silence(no_speech_prob: float, avg_logprob: float, options: DecodeOptions) -> bool:
    """Tell whether a window is silence: no speech is likely, and the text improbable."""
    return no_speech_prob > options.no_speech_threshold and avg_logprob < options.logprob_threshold


def needs_fallback(attempt: Decoded, options: DecodeOptions) -> bool:
    """Tell whether to try again at the next temperature: the text loops, or is improbable."""
    if attempt.is_silence:
        return False
    return (
        attempt.compression_ratio > options.compression_ratio_threshold
        or attempt.avg_logprob < options.logprob_threshold
    )


@dataclass(frozen=True, slots=True)
class _Language:
    """What a window is decoded in, and what it may have been besides."""

    code: str
    scores: Mapping[str, float]  # empty where it was not detected

    @property
    def probability(self) -> float:
        return self.scores.get(self.code, 0.0) if self.scores else 1.0


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that are decoded together, and what belongs to each."""

    encoded: Encoded
    jobs: Sequence[WindowJob]
    languages: Sequence[_Language]
    is_wanted: IsWanted

    def select(self, rows: Sequence[int]) -> _Batch:
        """Return these rows, in this order."""
        return _Batch(
            self.encoded.select(rows),
            [self.jobs[row] for row in rows],
            [self.languages[row] for row in rows],
            lambda index: self.is_wanted(rows[index]),
        )


class WindowDecoder:
    """Decodes batches of windows with one loaded engine; blocks, as many calls at once as it takes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizer = engine.tokenizer

    def decode(
        self,
        jobs: Sequence[WindowJob],
        options: DecodeOptions,
        is_wanted: IsWanted = everything,
        n_frames: int = WINDOW_FRAMES,
    ) -> list[Decoded]:
        """Decode jobs that share `options`, from the first `n_frames` of each; result i belongs to job i.

        `is_wanted` is called between the steps: a row that is no longer wanted is not tried again, and its
        tokens are not timed.

        Raises:
            DeviceOutOfMemory: nothing was decoded; a smaller batch may do.
            EngineFailure: one of the windows cannot be decoded.
            InvalidRequest: the model does not know a language or cannot translate.
        """
        encoded = self._engine.encode(np.stack([job.window.mel[:, :n_frames] for job in jobs]))
        if not any(map(is_wanted, range(len(jobs)))):
            raise EngineFailure("None of these windows is wanted any more.")
        languages = self._languages(encoded, jobs)
        if not options.temperatures:
            return self._taken(encoded, jobs, languages)
        starts = [
            self._tokenizer.start_sequence(language.code, job.task)
            for language, job in zip(languages, jobs, strict=True)
        ]
        prompts = [
            self._tokenizer.prompt(start, job.prompt, job.keywords)
            for start, job in zip(starts, jobs, strict=True)
        ]
        if options.is_draft:
            prompts = [[*prompt, self._tokenizer.no_timestamps] for prompt in prompts]
        batch = _Batch(encoded, jobs, languages, is_wanted)
        decoded = self._with_fallback(batch, prompts, options)
        doubtful = [row for row, job in enumerate(jobs) if self._is_doubtful(decoded[row], job)]
        doubtful = [row for row in doubtful if is_wanted(row) and not options.is_draft]
        if doubtful:
            bare = self._with_fallback(batch.select(doubtful), [starts[row] for row in doubtful], options)
            for row, without in zip(doubtful, bare, strict=True):
                decoded[row] = self._believed(decoded[row], without, jobs[row])
        timed = [row for row, job in enumerate(jobs) if job.word_timestamps and is_wanted(row)]
        return self._with_token_times(encoded, starts, jobs, decoded, timed)

    def _taken(
        self, encoded: Encoded, jobs: Sequence[WindowJob], languages: Sequence[_Language]
    ) -> list[Decoded]:
        """Return what the jobs bring as said, with the language that was heard, and times where wanted."""
        starts = [self._tokenizer.start_sequence(each.code, "transcribe") for each in languages]
        decoded = [
            Decoded(
                tokens=job.tokens,
                language=language.code,
                language_probability=language.probability,
                language_scores=language.scores,
                temperature=0.0,
                avg_logprob=0.0,
                compression_ratio=self._ratio(job.tokens),
                no_speech_prob=0.0,
                is_silence=False,
            )
            for job, language in zip(jobs, languages, strict=True)
        ]
        timed = [row for row, job in enumerate(jobs) if job.word_timestamps]
        return self._with_token_times(encoded, starts, jobs, decoded, timed)

    def _languages(self, encoded: Encoded, jobs: Sequence[WindowJob]) -> list[_Language]:
        """Return the language per job, detecting that of jobs that name none or may switch to another."""
        found = [_Language(job.language or "en", {}) for job in jobs]
        unknown = [row for row, job in enumerate(jobs) if job.language is None or job.switches]
        candidates = {row: self._candidates(jobs[row]) for row in unknown}
        if unknown and self._tokenizer.is_multilingual:
            for row, scores in zip(
                unknown, self._engine.detect_language(encoded.select(unknown)), strict=True
            ):
                heard = Heard(among(scores, candidates[row]) or {"en": 0.0}, spoken_s(jobs[row].window))
                found[row] = _Language(heard.choice(jobs[row].language), heard.scores)
        return found

    def _candidates(self, job: WindowJob) -> Sequence[str]:
        """Return the codes to choose from.

        Raises:
            InvalidRequest: the model knows none of those that the request names.
        """
        known = self._tokenizer.languages
        wanted = [code for code in known if code in job.candidates]
        if job.candidates and not wanted:
            raise InvalidRequest(
                f"This model knows none of the languages {', '.join(job.candidates)}.", param="languages"
            )
        return wanted or known

    def _shown(self, decoded: Decoded) -> str:
        return "" if decoded.is_silence else self._tokenizer.text(decoded.tokens)

    def _is_doubtful(self, decoded: Decoded, job: WindowJob) -> bool:
        """Tell whether the prompt or the keywords of a job may have harmed its answer."""
        given = _given(job)
        return bool(given) and is_doubtful(self._shown(decoded), given, spoken_s(job.window))

    def _believed(self, decoded: Decoded, without: Decoded, job: WindowJob) -> Decoded:
        """Return the better one of a doubtful answer and that without the prompt."""
        texts = self._shown(decoded), self._shown(without)
        heard_s = spoken_s(job.window)
        is_heard = is_sure(without) or (bool(job.window.voice) and heard_s >= MIN_VOICE_S)
        is_worse = is_harmed(*texts, _given(job), heard_s, is_heard=is_heard)
        return without if is_worse else decoded

    def _with_fallback(
        self, batch: _Batch, prompts: Sequence[Sequence[int]], options: DecodeOptions
    ) -> list[Decoded]:
        """Decode at rising temperatures until each row is good enough, or keep its best attempt."""
        is_wanted, jobs = batch.is_wanted, batch.jobs
        longest = max(loops.most_tokens(job.window.duration_s) for job in jobs)
        kept: dict[int, Decoded] = {}
        pending = list(range(len(prompts)))
        for temperature in options.temperatures:
            sampling = Sampling(
                beam_size=options.beam_size,
                temperature=temperature,
                seeds=tuple(_seed(jobs[row], temperature) for row in pending) if temperature > 0 else (),
                max_tokens=longest if options.is_draft else None,
            )
            hypotheses = self._engine.generate(
                batch.encoded.select(pending),
                [prompts[row] for row in pending],
                sampling,
                lambda index, rows=tuple(pending): is_wanted(rows[index]),  # type: ignore[misc]
            )
            if len(hypotheses) != len(pending):
                raise EngineFailure(f"The engine gave {len(hypotheses)} results for {len(pending)} windows.")
            attempts = {
                row: self._attempt(hypothesis, batch.languages[row], temperature, options)
                for row, hypothesis in zip(pending, hypotheses, strict=True)
            }
            for row, attempt in attempts.items():
                kept[row] = _better(kept.get(row), attempt, options)
            pending = [row for row in pending if needs_fallback(attempts[row], options) and is_wanted(row)]
            if not pending:
                break
        return [self._without_loops(kept[row], options) for row in range(len(prompts))]

    def _without_loops(self, decoded: Decoded, options: DecodeOptions) -> Decoded:
        """Cut the loops of a row of which every attempt looped; others are what was said."""
        if decoded.is_silence or decoded.compression_ratio <= options.compression_ratio_threshold:
            return decoded
        tokens = loops.cut(decoded.tokens, self._tokenizer)
        return replace(decoded, tokens=tokens, compression_ratio=self._ratio(tokens))

    def _ratio(self, tokens: Sequence[int]) -> float:
        """Return the compression ratio of what tokens spell, parts of characters included: they loop, too."""
        spelled = b"".join(map(self._tokenizer.token_bytes, self._tokenizer.text_tokens(tokens)))
        return compression_ratio(spelled.decode("utf-8", "replace").strip())

    def _attempt(
        self, hypothesis: Hypothesis, language: _Language, temperature: float, options: DecodeOptions
    ) -> Decoded:
        return Decoded(
            tokens=hypothesis.tokens,
            language=language.code,
            language_probability=language.probability,
            language_scores=language.scores,
            temperature=temperature,
            avg_logprob=hypothesis.avg_logprob,
            compression_ratio=self._ratio(hypothesis.tokens),
            no_speech_prob=hypothesis.no_speech_prob,
            is_silence=is_silence(hypothesis.no_speech_prob, hypothesis.avg_logprob, options),
        )

    def _with_token_times(
        self,
        encoded: Encoded,
        starts: Sequence[Sequence[int]],
        jobs: Sequence[WindowJob],
        decoded: Sequence[Decoded],
        wanted: Sequence[int],
    ) -> list[Decoded]:
        """Add when each text token was spoken, to those of the `wanted` rows that have any."""
        texts = {row: self._tokenizer.text_tokens(decoded[row].tokens) for row in wanted}
        rows = [row for row, text in texts.items() if text and not decoded[row].is_silence]
        results = list(decoded)
        if not rows:
            return results
        alignments = self._engine.align(
            encoded.select(rows),
            [starts[row] for row in rows],
            [texts[row] for row in rows],
            [jobs[row].window.n_frames for row in rows],
        )
        for row, alignment in zip(rows, alignments, strict=True):
            times = zip(
                texts[row], alignment.start_s, alignment.start_s[1:], alignment.probabilities, strict=False
            )
            results[row] = replace(decoded[row], token_times=tuple(TokenTime(*time) for time in times))
        return results


def _given(job: WindowJob) -> str:
    """Return all text that the model is given before a window."""
    return f"{job.keywords} {job.prompt}".strip()


def _seed(job: WindowJob, temperature: float) -> int:
    return seeds.of_attempt(job.window.mel, job.seed, temperature)


def _better(kept: Decoded | None, attempt: Decoded, options: DecodeOptions) -> Decoded:
    """Return the attempt to show where none was good enough: the most probable one that does not loop."""
    if kept is None or not needs_fallback(attempt, options):
        return attempt

    def rank(candidate: Decoded) -> tuple[bool, float]:
        loops = candidate.compression_ratio > options.compression_ratio_threshold
        return (not loops, candidate.avg_logprob)

    return max(kept, attempt, key=rank)
