"""Values that go through the store come back as they were."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import (
    Decoded,
    ModelSource,
    Segment,
    TokenScore,
    TokenTime,
    TranscribeParams,
    Transcript,
    VadOptions,
    VoiceOptions,
    Word,
)
from whisper_server.services.jobs import codec
from whisper_server.services.rendering.subtitles import SubtitleOptions

MODEL = ModelSource("tiny", repo="owner/tiny")
FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=()))  # halves of characters too

words = st.builds(Word, TEXTS, FLOATS, FLOATS, FLOATS)
scores = st.builds(TokenScore, TEXTS, st.binary(), FLOATS)
segments = st.builds(
    Segment,
    start_s=FLOATS,
    end_s=FLOATS,
    text=TEXTS,
    tokens=st.lists(st.integers(0, 60_000)).map(tuple),
    temperature=FLOATS,
    avg_logprob=FLOATS,
    compression_ratio=FLOATS,
    no_speech_prob=FLOATS,
    language=st.just("en"),
    seek_frames=st.integers(0),
    words=st.lists(words).map(tuple),
    scores=st.lists(scores).map(tuple),
    speaker=TEXTS,
    language_probability=FLOATS,
)
times = st.builds(TokenTime, st.integers(0), FLOATS, FLOATS, FLOATS)
decoded = st.builds(
    Decoded,
    tokens=st.lists(st.integers(0)).map(tuple),
    language=st.just("de"),
    language_probability=FLOATS,
    temperature=FLOATS,
    avg_logprob=FLOATS,
    compression_ratio=FLOATS,
    no_speech_prob=FLOATS,
    is_silence=st.booleans(),
    token_times=st.lists(times).map(tuple),
    language_scores=st.dictionaries(TEXTS, FLOATS),
)
params = st.builds(
    TranscribeParams,
    model=st.just(MODEL),
    task=st.sampled_from(["transcribe", "translate"]),
    language=st.none() | st.just("en"),
    languages=st.lists(st.sampled_from(["en", "de"])).map(tuple),
    language_switching=st.none() | st.booleans(),
    prompt=TEXTS,
    keywords=st.lists(TEXTS).map(tuple),
    temperature=FLOATS,
    seed=st.integers(-(2**63), 2**63 - 1),
    logprobs=st.booleans(),
    speakers=st.none() | st.lists(TEXTS).map(tuple),
    voices=st.builds(
        VoiceOptions, st.lists(st.binary()).map(tuple), st.integers(1, 9), st.none() | st.integers(1, 9)
    ),
    audio_track=st.none() | st.integers(0, 9),
    vad=st.builds(VadOptions, threshold=FLOATS, neg_threshold=st.none() | FLOATS, keeps_sound=st.booleans()),
    priority=st.sampled_from(["interactive", "normal", "background"]),
)


@given(segments)
def test_segments(value: Segment) -> None:
    assert codec.segment_of(codec.segment_text(value)) == value


@given(decoded)
def test_what_was_said_of_windows(value: Decoded) -> None:
    text = codec.decoded_text(value)
    assert codec.decoded_of(text) == value
    assert text.isascii()  # any database takes it


@given(params, st.builds(SubtitleOptions), st.booleans())
def test_requests(value: TranscribeParams, subtitles: SubtitleOptions, is_shown: bool) -> None:
    request = codec.JobRequest(value, "srt", subtitles, is_shown, not is_shown)
    assert codec.request_of(codec.request_text(request), MODEL) == request


def test_the_model_is_what_its_name_means_later() -> None:
    request = codec.JobRequest(TranscribeParams(MODEL), "json", SubtitleOptions(), True, False)
    other = ModelSource("base", repo="owner/base")
    found = codec.request_of(codec.request_text(request), other)
    assert found == replace(request, params=TranscribeParams(other))
    assert "owner" not in codec.request_text(request)


@given(st.lists(segments).map(tuple))
def test_transcripts(found: tuple[Segment, ...]) -> None:
    whole = Transcript("transcribe", "en", 1.5, found, 0.25, shows_languages=True, shows_segments=False)
    assert codec.transcript_of(codec.outcome_text(whole), found) == whole


def test_numbers_of_numpy_become_pythons() -> None:
    one = Decoded((1,), "en", np.float32(0.5), 0.0, np.float64(-1.5), 1.0, 0.0, is_silence=False)  # type: ignore[arg-type]
    assert codec.decoded_of(codec.decoded_text(one)) == one


def test_errors_are_what_a_request_would_have_got() -> None:
    error = InvalidRequest("no", param="file")
    assert json.loads(codec.error_text(error)) == codec.error_of(codec.error_text(error))
    assert codec.error_of(codec.error_text(error)) == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "file",
        "code": None,
    }
