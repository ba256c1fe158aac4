"""Word times of the real engine: near the truth, forward, inside the speech."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench.experiments.word_times import Clip, measure, quantiles
from tests.conftest import NANO_MODEL, SAMPLES, all_samples
from tests.support.audio_files import encode
from tests.support.nano_clips import RATE, pcm
from whisper_server.core.config import Settings
from whisper_server.core.types import Span, TranscribeParams, Transcript
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.container import Services, open_services
from whisper_server.services.engines.ct2.onnx_encoder import sums_are_exact
from whisper_server.services.speech import vad

WORDS = TranscribeParams(NANO_MODEL, word_timestamps=True)
BOUNDS_S = (0.03, 0.05, 0.25)  # of the error at 50, 90 and 99 %
DENSE = [sample for sample in all_samples() if sample.kind == "dense"]


@pytest.fixture(scope="module")
def clips(nano_cache: Path) -> list[Clip]:
    """The plain clips, transcribed once."""
    return measure(nano_cache)


@pytest.fixture
async def services(nano_settings: Settings) -> AsyncIterator[Services]:
    async with open_services(nano_settings) as opened:
        yield opened


def spans_of(services: Services, data: bytes) -> list[Span]:
    audio: AudioProcessor = services.audio
    with audio.open(data) as stream:
        return list(vad.spans(stream.blocks()))


def check_order(transcript: Transcript) -> None:
    """Every word forward, inside its segment and after the word before it."""
    for segment in transcript.segments:
        for word in segment.words:
            assert segment.start_s <= word.start_s <= word.end_s <= segment.end_s
    words = [word for segment in transcript.segments for word in segment.words]
    for left, right in pairwise(words):
        assert left.end_s <= right.start_s


def check_inside(transcript: Transcript, spans: list[Span]) -> None:
    """Every word inside one span of speech."""
    for word in (word for segment in transcript.segments for word in segment.words):
        assert any(s.start_s - 1e-6 <= word.start_s and word.end_s <= s.end_s + 1e-6 for s in spans)


def times(transcript: Transcript) -> list[tuple[str, float, float]]:
    """The words and their times; probabilities differ by float rounding."""
    return [(word.text, word.start_s, word.end_s) for s in transcript.segments for word in s.words]


@pytest.mark.skipif(not sums_are_exact(), reason="the bounds are those of exact sums of 8 bits")
def test_near_the_truth_on_every_quantile(clips: list[Clip]) -> None:
    right = [(clip, clip.words) for clip in clips if clip.is_heard_right(clip.words)]
    assert len(right) >= 25
    for errors_s in quantiles(right).values():
        assert all(error < bound for error, bound in zip(errors_s, BOUNDS_S, strict=True)), errors_s


@pytest.mark.long
def test_words_run_forward_inside_their_segments_and_the_speech(
    clips: list[Clip], nano_settings: Settings
) -> None:
    async def spans() -> list[list[Span]]:
        async with open_services(nano_settings) as services:
            return [spans_of(services, (SAMPLES / clip.name).read_bytes()) for clip in clips]

    for clip, found in zip(clips, asyncio.run(spans()), strict=True):
        check_order(clip.transcript)
        check_inside(clip.transcript, found)
        said = " ".join(word for word, _, _ in clip.words)
        assert said == clip.transcript.text


@pytest.mark.long
async def test_dense_speech_and_several_stretches_in_one_window(services: Services) -> None:
    pause = np.zeros(6 * RATE, np.float32)
    joined = np.concatenate([piece for n in (0, 3, 5) for piece in (pcm(f"en-plain-00{n}.flac"), pause)])
    for data in (encode(joined, RATE, "flac", "flac"), *(sample.data for sample in DENSE)):
        transcript = await services.transcriber.transcribe(data, WORDS)
        assert transcript.segments
        check_order(transcript)
        check_inside(transcript, spans_of(services, data))


@pytest.mark.long
async def test_alone_and_in_a_crowd_word_times_are_equal(services: Services) -> None:
    data = [sample.data for sample in all_samples() if sample.kind == "plain"][:6]
    alone = [await services.transcriber.transcribe(one, WORDS) for one in data]
    crowd = await asyncio.gather(*(services.transcriber.transcribe(one, WORDS) for one in data))
    for one, other in zip(alone, crowd, strict=True):
        assert times(one) == times(other)
