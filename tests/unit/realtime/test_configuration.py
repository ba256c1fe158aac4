"""`session.update` as clients send it, field by field."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.errors import InvalidRequest
from whisper_server.services.realtime.configuration import SemanticVad, ServerVad, SessionConfig

NAMES = st.sampled_from(
    [
        *("audio", "input", "format", "type", "rate", "transcription", "turn_detection", "noise_reduction"),
        *("include", "model", "language", "languages", "keywords", "prompt", "delay"),
        *("threshold", "eagerness"),
        *("input_audio_format", "input_audio_transcription", "silence_duration_ms", "idle_timeout_ms"),
    ]
)


def updated(config: SessionConfig, **audio: Any) -> SessionConfig:
    return config.updated({"type": "transcription", "audio": {"input": audio}})


def test_a_field_that_is_left_out_keeps_its_value() -> None:
    config = updated(SessionConfig(), transcription={"model": "base", "language": "en"})
    config = updated(config, turn_detection={"type": "server_vad", "silence_duration_ms": 350})
    config = updated(config, transcription={"language": "de"})
    assert config.transcription.model == "base"
    assert config.transcription.language == "de"
    assert config.turn_detection == ServerVad(silence_duration_ms=350)


def test_null_turns_off() -> None:
    config = updated(SessionConfig(), transcription={"model": "base", "language": "en"})
    config = updated(config, turn_detection=None, transcription={"language": None})
    assert config.turn_detection is None
    assert config.transcription.language is None
    assert config.wire()["audio"]["input"]["turn_detection"] is None


@pytest.mark.parametrize(
    "audio",
    [
        {"noise_reduction": {"type": "near_field", "strength": 3}},
        {"turn_detection": {"type": "semantic_vad", "eagerness": "whatever"}},
        {"turn_detection": {"type": "server_vad", "create_response": True, "interrupt_response": False}},
        {"transcription": {"model": "base", "delay": "odd", "prompt": "", "unknown": [1]}},
        {"unknown": 1},
    ],
)
def test_what_this_server_has_no_use_for_is_no_error(audio: dict[str, Any]) -> None:
    updated(SessionConfig(), **audio)


def test_the_older_event_says_the_same_flat() -> None:
    config = SessionConfig().updated_flat(
        {
            "input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "base", "language": "fr"},
            "turn_detection": {"type": "semantic_vad"},
            "include": ["item.input_audio_transcription.logprobs"],
        }
    )
    assert config.format.pcm().encoding == "mulaw"
    assert config.format.pcm().rate_hz == 8_000
    assert config.transcription.language == "fr"
    assert config.turn_detection == SemanticVad()
    assert config.wants_logprobs


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_other_rates_than_the_hosted_apis_are_taken(rate_hz: int) -> None:
    config = updated(SessionConfig(), format={"type": "audio/pcm", "rate": rate_hz})
    assert config.format.pcm().rate_hz == rate_hz
    assert config.wire()["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": rate_hz}


@pytest.mark.parametrize(
    ("audio", "param"),
    [
        ({"format": {"type": "audio/pcm", "rate": 7_000}}, "format.rate"),
        ({"turn_detection": {"type": "server_vad", "threshold": 2}}, "turn_detection.threshold"),
        ({"transcription": {"languages": "en"}}, "transcription.languages"),
        ({"turn_detection": {"type": "other"}}, "turn_detection"),
        ({"turn_detection": {"type": ["server_vad"]}}, "turn_detection"),
        ({"turn_detection": "server_vad"}, "turn_detection"),
        ({"turn_detection": True}, "turn_detection"),
    ],
)
def test_a_wrong_value_is_named(audio: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        updated(SessionConfig(), **audio)
    assert caught.value.param == f"session.audio.input.{param}"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES), st.booleans())
def test_any_value_is_taken_or_refused(session: dict[str, Any], is_flat: bool) -> None:
    whole = session if is_flat else {"audio": {"input": session}, **session}
    with contextlib.suppress(InvalidRequest):
        config = SessionConfig().updated_flat(whole) if is_flat else SessionConfig().updated(whole)
        config.wire()


@pytest.mark.parametrize("session", [None, 3, [], "text"])
def test_a_session_is_an_object(session: object) -> None:
    with pytest.raises(InvalidRequest):
        SessionConfig().updated(session)


@pytest.mark.parametrize(
    "detection", [5, "server_vad", [], [[]], True, {"type": ["server_vad"]}, {"type": "x"}]
)
def test_a_detection_that_is_none_is_named(detection: Any) -> None:
    """As a close with 1011, which is what an exception of ours becomes, it would end the session."""
    for update in (
        lambda: updated(SessionConfig(), turn_detection=detection),
        lambda: SessionConfig().updated_flat({"turn_detection": detection}),
    ):
        with pytest.raises(InvalidRequest, match="turn_detection") as failed:
            update()
        assert "semantic_vad" in failed.value.message
        assert "lambda" not in failed.value.message


def test_numbers_that_no_json_has_are_not_shown_again() -> None:
    odd = {"type": "near_field", "strength": float("nan"), "more": [float("inf")]}
    config = updated(SessionConfig(), noise_reduction=odd)
    json.dumps(config.wire(), allow_nan=False)
    assert config.wire()["audio"]["input"]["noise_reduction"] == {"type": "near_field"}
