"""The languages of a file through the pipeline: which windows are decoded in which, and how often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.audio_files import encode, tone
from tests.support.nano_clips import RATE, pcm
from whisper_server.core.languages import NAMES
from whisper_server.core.types import DecodeOptions, ModelSource, TranscribeParams, Transcript
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.engines.base import Encoded, Hypothesis, IsWanted, Sampling, everything
from whisper_server.services.engines.fake import FakeEngine
from whisper_server.services.loaded_models.loader import WhisperModel
from whisper_server.services.transcription import LeasedModel, Transcription
from whisper_server.services.work_pool import WorkPool

SPOKEN = np.concatenate([pcm("en-plain-005.flac"), pcm("en-plain-005.flac"), np.zeros(4 * RATE, np.float32)])
EN, DE = {"en": 0.97, "de": 0.02, "fr": 0.01}, {"en": 0.02, "de": 0.97, "fr": 0.01}
UNSURE_FR = {"en": 0.2, "de": 0.3, "fr": 0.5}
PARAMS = TranscribeParams(ModelSource("polyglot"))


class Polyglot(FakeEngine):
    """Says of each window what the test tells; remembers the language in which each was decoded."""

    def __init__(self, *scores: dict[str, float], leaves_undone: int = 0) -> None:
        super().__init__()
        self.scores = list(scores)
        self.decoded: list[str] = []
        self.prompts: list[str] = []
        self.leaves_undone = leaves_undone  # windows of which only the first 4 s are written

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        return [self.scores.pop(0) for _ in super().detect_language(encoded)]

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        codes = {
            self.tokenizer.start_sequence(code, "transcribe")[1]: code for code in NAMES if code != "yue"
        }
        self.decoded += [next(codes[token] for token in prompt if token in codes) for prompt in prompts]
        self.prompts += [self.tokenizer.text(prompt).strip() for prompt in prompts]
        if self.leaves_undone:
            self.leaves_undone -= 1
            first = self.tokenizer.first_timestamp
            text = self.tokenizer.encode(" only the very beginning of all this")
            return [Hypothesis((first + 30, *text, first + 200), -0.2, 0.0)]
        return super().generate(encoded, prompts, sampling, is_wanted)


async def transcribed(
    engine: Polyglot, n_windows: int, params: TranscribeParams = PARAMS, *, switches: bool = True
) -> Transcript:
    samples = np.concatenate([SPOKEN] * n_windows)
    return await heard(engine, samples, params, switches=switches)


async def heard(
    engine: Polyglot,
    samples: NDArray[np.float32],
    params: TranscribeParams = PARAMS,
    *,
    switches: bool = True,
) -> Transcript:
    model, pool = WhisperModel("polyglot", lambda: engine), WorkPool(1)
    stream = AudioProcessor(1 << 30, 3600.0).open(encode(samples, RATE, "flac", "flac"))
    unused = None
    one = Transcription(stream, params, DecodeOptions(), unused, pool, True, switches)  # type: ignore[arg-type]
    try:
        with model.scheduler.open_stream() as windows:
            async with contextlib.aclosing(one.segments(LeasedModel(model, windows))) as produced:
                return one.transcript(tuple([segment async for segment in produced]))
    finally:
        pool.close(5.0)
        await asyncio.to_thread(model.close)


def languages(transcript: Transcript) -> list[str]:
    return [segment.language for segment in transcript.segments]


async def test_each_half_is_decoded_in_its_language_and_once() -> None:
    engine = Polyglot(EN, DE, DE)
    transcript = await transcribed(engine, 3)
    assert languages(transcript) == engine.decoded == ["en", "de", "de"]
    assert transcript.language == "de"
    assert transcript.language_probability == pytest.approx(0.97)


async def test_a_window_that_is_not_sure_follows_and_costs_another_look_at_most() -> None:
    engine = Polyglot(EN, UNSURE_FR, DE, UNSURE_FR)
    transcript = await transcribed(engine, 4)
    assert languages(transcript) == ["en", "en", "de", "de"]
    # The second one is decoded in the language of the file at once, the last one again in that before it.
    assert sorted(engine.decoded) == ["de", "de", "en", "en", "en"]
    assert [segment.language_probability for segment in transcript.segments] == [0.97, 0.2, 0.97, 0.3]


async def test_an_unsure_beginning_is_decoded_again_once_the_language_is_known() -> None:
    engine = Polyglot(UNSURE_FR, UNSURE_FR, DE)
    transcript = await transcribed(engine, 3)
    assert languages(transcript) == ["de", "de", "de"]
    assert engine.decoded == ["fr", "fr", "de", "de", "de"]


async def test_a_prompt_stays_with_its_window_when_that_is_decoded_again() -> None:
    params = TranscribeParams(ModelSource("polyglot"), prompt="Dear")
    engine = Polyglot(UNSURE_FR, DE)
    await transcribed(engine, 2, params)
    assert list(zip(engine.decoded, engine.prompts, strict=True)) == [
        ("fr", "Dear"),
        ("de", ""),
        ("de", "Dear"),
    ]


async def test_a_file_of_one_unsure_window_is_decoded_once() -> None:
    engine = Polyglot(UNSURE_FR)
    transcript = await transcribed(engine, 1)
    assert engine.decoded == languages(transcript) == ["fr"]
    assert (transcript.language, transcript.language_probability) == ("fr", 0.5)


async def test_without_switching_the_file_has_the_language_of_its_beginning() -> None:
    engine = Polyglot(EN)
    transcript = await transcribed(engine, 3, switches=False)
    assert engine.decoded == languages(transcript) == ["en", "en", "en"]
    assert transcript.language_probability == 0.97
    assert engine.scores == []  # the others were not asked


async def test_a_given_language_wins_and_nothing_is_detected() -> None:
    for params in (
        TranscribeParams(ModelSource("polyglot"), language="fr"),
        TranscribeParams(ModelSource("polyglot"), languages=("fr",)),
    ):
        engine = Polyglot()
        transcript = await transcribed(engine, 2, params)
        assert engine.decoded == languages(transcript) == ["fr", "fr"]
        assert (transcript.language, transcript.language_probability) == ("fr", 1.0)


async def test_candidates_are_all_there_is_to_choose_from() -> None:
    params = TranscribeParams(ModelSource("polyglot"), languages=("en", "fr"))
    engine = Polyglot(DE, EN, {"de": 0.9, "fr": 0.09, "en": 0.01})
    transcript = await transcribed(engine, 3, params)
    assert languages(transcript) == ["en", "en", "fr"]


async def test_what_is_decoded_again_of_a_window_may_be_in_another_language() -> None:
    for scores, language in [(DE, "de"), (UNSURE_FR, "en")]:
        engine = Polyglot(EN, scores, leaves_undone=1)
        transcript = await transcribed(engine, 1)
        assert languages(transcript) == engine.decoded == ["en", language]


async def test_translations_are_made_from_the_language_of_each_window() -> None:
    engine = Polyglot(EN, DE)
    transcript = await transcribed(engine, 2, TranscribeParams(ModelSource("polyglot"), task="translate"))
    assert languages(transcript) == engine.decoded == ["en", "de"]


async def test_sound_without_a_voice_waits_for_a_voice() -> None:
    engine = Polyglot(UNSURE_FR, DE)
    transcript = await heard(engine, np.concatenate([tone(25.0), SPOKEN]))
    assert engine.decoded == ["fr", "de", "de"]
    assert languages(transcript)[-1] == "de"
