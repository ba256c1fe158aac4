"""What the model left undone is decoded again by the pipeline: in order, bounded, and for voices only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.support.audio_files import encode, tone
from tests.support.nano_clips import RATE, pcm
from whisper_server.core.types import DecodeOptions, ModelSource, TranscribeParams, Transcript
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.engines.base import Encoded, Hypothesis, IsWanted, Sampling, everything
from whisper_server.services.engines.fake import FakeEngine
from whisper_server.services.loaded_models.loader import WhisperModel
from whisper_server.services.transcription import LeasedModel, Transcription
from whisper_server.services.work_pool import WorkPool

Reply: TypeAlias = tuple[float | str, ...]  # numbers are timestamps, strings are text
SPEECH = pcm("en-plain-005.flac")  # 11 s with a voice almost everywhere
SENTENCE = " always apple people coffee mountain open right three cat table"


class ScriptedEngine(FakeEngine):
    """Answers windows in the order in which they come; then with nothing."""

    def __init__(self, *replies: Reply, avg_logprob: float = -0.2) -> None:
        super().__init__()
        self.replies = list(replies)
        self.avg_logprob = avg_logprob
        self.heard: list[int] = []  # frames of each window, up to the last with sound
        self.prompts: list[str] = []
        self.detected = 0

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        found = super().detect_language(encoded)
        self.detected += len(found)
        return found

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        del sampling, is_wanted
        self.heard += getattr(encoded, "frames", ())
        self.prompts += [self.tokenizer.text(prompt).strip() for prompt in prompts]
        return [self._hypothesis(self.replies.pop(0) if self.replies else ()) for _ in prompts]

    def _hypothesis(self, reply: Reply) -> Hypothesis:
        tokens: list[int] = []
        for piece in reply:
            if isinstance(piece, str):
                tokens += self.tokenizer.encode(piece)
            else:
                tokens.append(self.tokenizer.first_timestamp + round(piece / 0.02))
        return Hypothesis(tuple(tokens), self.avg_logprob, 0.0)


async def transcribed(
    engine: ScriptedEngine, samples: NDArray[np.float32], params: TranscribeParams, *, use_vad: bool = True
) -> tuple[Transcript, list[float], int]:
    """Return the transcript, the progress that was told, and the windows that were counted."""
    model, pool = WhisperModel("scripted", lambda: engine), WorkPool(1)
    stream = AudioProcessor(1 << 30, 3600.0).open(encode(samples, RATE, "flac", "flac"))
    unused = None
    one = Transcription(stream, params, DecodeOptions(), unused, pool, use_vad)  # type: ignore[arg-type]
    progress: list[float] = []
    one.on_window = progress.append
    try:
        with model.scheduler.open_stream() as windows:
            async with contextlib.aclosing(one.segments(LeasedModel(model, windows))) as produced:
                found = tuple([segment async for segment in produced])
        return one.transcript(found), progress, one.windows_done
    finally:
        pool.close(5.0)
        await asyncio.to_thread(model.close)


ENGLISH = TranscribeParams(ModelSource("scripted"), language="en")


async def test_the_rest_of_a_window_is_decoded_until_nothing_is_left() -> None:
    engine = ScriptedEngine(
        (0.6, SENTENCE, 4.0), (0.0, " then more of it", 3.0), (0.0, " the last words", 3.9)
    )
    transcript, progress, n_windows = await transcribed(engine, SPEECH, ENGLISH)
    assert transcript.text == (SENTENCE + " then more of it the last words").strip()
    starts = [segment.start_s for segment in transcript.segments]
    assert starts == sorted(starts)
    assert starts[1] - starts[0] > 3.3
    assert transcript.segments[-1].end_s <= transcript.duration_s
    assert engine.heard == sorted(engine.heard, reverse=True)
    assert n_windows == len(engine.heard) == 3
    assert progress == sorted(progress)


async def test_where_nothing_more_comes_it_ends() -> None:
    engine = ScriptedEngine((0.6, SENTENCE, 4.0))
    transcript, _, n_windows = await transcribed(engine, SPEECH, ENGLISH)
    assert transcript.text == SENTENCE.strip()
    assert n_windows == 2


async def test_a_model_that_always_leaves_most_undone_ends_too() -> None:
    engine = ScriptedEngine(*[(0.0, f" number {n}", 0.3) for n in range(500)])
    _, _, n_windows = await transcribed(engine, SPEECH, ENGLISH)
    assert 5 < n_windows < 100


async def test_an_improbable_rest_is_not_shown() -> None:
    engine = ScriptedEngine((0.6, SENTENCE, 4.0), (0.0, " Thanks for watching.", 3.0), avg_logprob=-0.96)
    transcript, _, _ = await transcribed(engine, SPEECH, ENGLISH)
    assert transcript.text == SENTENCE.strip()


async def test_windows_stay_in_order_and_a_prompt_goes_to_the_first_with_a_voice() -> None:
    hum = tone(20.0) / 4
    quiet = np.zeros(4 * RATE, np.float32)
    engine = ScriptedEngine(
        (),  # the tone
        (0.6, SENTENCE, 10.5),
        (0.6, SENTENCE, 4.0),
        (0.0, " and its rest", 6.0),
    )
    params = TranscribeParams(ModelSource("scripted"), prompt="Dear", keywords=("Ada",))
    samples = np.concatenate([hum, SPEECH, quiet, hum, SPEECH])
    transcript, _, n_windows = await transcribed(engine, samples, params)
    assert transcript.language == "en"
    starts = [segment.start_s for segment in transcript.segments]
    assert starts == sorted(starts)
    assert sum("Dear" in prompt for prompt in engine.prompts) == 1
    # What comes empty is decoded once more without keywords.
    assert all("Ada" in prompt for prompt in engine.prompts if prompt)
    assert engine.prompts[-1] == ""
    assert engine.detected == n_windows  # each says what it is in


async def test_over_sound_without_a_voice_only_a_sure_text_is_shown_after_one_attempt() -> None:
    hum = tone(12.0)
    for avg_logprob, text in [(-1.5, ""), (-0.7, ""), (-0.2, "she sings")]:
        engine = ScriptedEngine((0.0, " she sings", 8.0), avg_logprob=avg_logprob)
        transcript, _, n_windows = await transcribed(engine, hum, ENGLISH)
        assert transcript.text == text
        assert n_windows == len(engine.heard) == 1


async def test_the_language_of_a_file_without_a_voice_is_that_of_its_text() -> None:
    params = TranscribeParams(ModelSource("scripted"))
    for reply, language in [((0.0, " she sings", 8.0), "en"), ((), "")]:
        transcript, _, _ = await transcribed(ScriptedEngine(reply), tone(12.0), params)
        assert transcript.language == language


async def test_plain_silence_is_never_encoded() -> None:
    engine = ScriptedEngine()
    transcript, _, n_windows = await transcribed(engine, np.zeros(90 * RATE, np.float32), ENGLISH)
    assert (transcript.text, n_windows, engine.heard) == ("", 0, [])


async def test_without_voice_detection_a_rest_with_sound_is_decoded_too() -> None:
    for avg_logprob, text in [(-0.2, SENTENCE + " then more of it"), (-0.8, SENTENCE)]:
        replies = (0.6, SENTENCE, 4.0), (0.0, " then more of it", 6.9)
        engine = ScriptedEngine(*replies, avg_logprob=avg_logprob)
        transcript, _, n_windows = await transcribed(engine, SPEECH, ENGLISH, use_vad=False)
        assert transcript.text == text.strip()
        assert n_windows == 2


async def test_without_voice_detection_a_rest_of_silence_is_not() -> None:
    quiet = np.zeros(10 * RATE, np.float32)
    engine = ScriptedEngine((0.6, SENTENCE, 11.0), avg_logprob=-0.9)
    transcript, _, n_windows = await transcribed(
        engine, np.concatenate([SPEECH, quiet]), ENGLISH, use_vad=False
    )
    assert transcript.text == SENTENCE.strip()
    assert n_windows == 1
