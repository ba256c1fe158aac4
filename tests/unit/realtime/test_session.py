"""A session's states, without sound or sockets: what comes in, what goes out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_server.core.errors import InvalidRequest, ModelNotFound, Overloaded
from whisper_server.core.types import SAMPLE_RATE, VOICE_SAMPLES, ModelSource, TranscribeParams
from whisper_server.services.realtime.agreement import Phrase
from whisper_server.services.realtime.configuration import SessionConfig
from whisper_server.services.realtime.session import KEPT_S, MAX_TURN_S, TAIL_FRAMES, Session
from whisper_server.services.realtime.transitions import TRANSITIONS, Cause, State
from whisper_server.services.realtime.work import Turn

FRAME_MS = 32
VOICE, SILENCE = 0.9, 0.01


def params_of(config: SessionConfig) -> TranscribeParams:
    if config.transcription.model == "unknown":
        raise ModelNotFound("There is no such model.")
    return TranscribeParams(ModelSource(config.transcription.model or "base"))


class Driven:
    """A session and what it has said."""

    def __init__(self, detection: dict[str, Any] | str | None = "default", model: str | None = None) -> None:
        numbers = itertools.count()
        self.session = Session(
            SessionConfig(), params_of, new_id=lambda prefix: f"{prefix}_{next(numbers)}", expires_at=7
        )
        self.said: list[dict[str, Any]] = []
        audio: dict[str, Any] = {"transcription": {"model": model}} if model else {}
        if detection != "default":
            audio["turn_detection"] = detection
        if audio:
            self.update(audio)
        self.take()
        self.said = []

    def update(self, audio: dict[str, Any]) -> None:
        self.send({"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}})

    def send(self, event: dict[str, Any]) -> None:
        self.session.receive(event)
        self.take()

    def hear(self, probability: float, n_frames: int) -> None:
        for _ in range(n_frames):
            self.session.hear(np.full(VOICE_SAMPLES, probability, np.float32), [probability])
            self.take()

    def take(self) -> None:
        self.said += self.session.take_events()

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("conversation.item.") for event in self.said]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.said if event["type"].endswith(kind)]


def test_every_action_of_the_table_is_a_method() -> None:
    for _, actions in TRANSITIONS.values():
        assert all(callable(getattr(Session, action)) for action in actions)


@pytest.mark.parametrize("state", State)
def test_a_client_may_do_in_every_state_what_it_may_do(state: State) -> None:
    assert {(state, cause) for cause in (Cause.COMMIT, Cause.CLEAR, Cause.DETECT, Cause.COLLECT)} <= set(
        TRANSITIONS
    )


def test_the_session_speaks_first() -> None:
    session = Driven().session
    session = Session(SessionConfig(), params_of, new_id=lambda prefix: prefix, expires_at=7)
    [created] = session.take_events()
    assert created["type"] == "session.created"
    assert created["event_id"] == "event"
    assert created["session"]["object"] == "realtime.transcription_session"
    assert created["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert created["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"


def test_a_turn_from_its_first_word_to_its_text() -> None:
    driven = Driven({"type": "server_vad", "prefix_padding_ms": 320, "silence_duration_ms": 480})
    driven.hear(SILENCE, 20)
    driven.hear(VOICE, 30)
    driven.hear(SILENCE, 15)
    assert driven.kinds == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "added",
        "done",
    ]
    started, stopped, committed, added, _ = driven.said
    assert started["audio_start_ms"] == (20 - 10) * FRAME_MS
    assert stopped["audio_end_ms"] == 65 * FRAME_MS
    assert committed["previous_item_id"] is None
    turn = driven.session.next_turn()
    assert turn is not None
    assert {event.get("item_id", turn.item_id) for event in driven.said} == {turn.item_id}
    assert added["item"]["id"] == turn.item_id
    assert turn.duration_s == pytest.approx((65 - 10) * FRAME_MS / 1000)

    driven.session.completed(turn, "Good morning.", ["en"], None)
    driven.take()
    assert driven.of("delta")[0]["delta"] == "Good morning."
    completed = driven.of("completed")[0]
    assert completed["transcript"] == "Good morning."
    assert completed["usage"] == {"type": "duration", "seconds": 1.76}
    assert completed["languages"] == [{"code": "en"}]
    assert len({event["event_id"] for event in driven.said}) == len(driven.said)


def test_the_next_turn_begins_after_the_last_and_knows_it() -> None:
    driven = Driven({"type": "server_vad", "prefix_padding_ms": 10_000, "silence_duration_ms": 32})
    for _ in range(2):
        driven.hear(VOICE, 10)
        driven.hear(SILENCE, 2)
    first, second = driven.of("committed")
    assert second["previous_item_id"] == first["item_id"]
    turns = [driven.session.next_turn(), driven.session.next_turn()]
    assert sum(turn.duration_s for turn in turns if turn) <= 24 * FRAME_MS / 1000
    assert driven.of("speech_started")[1]["audio_start_ms"] == driven.of("speech_stopped")[0]["audio_end_ms"]


def test_a_click_begins_no_turn() -> None:
    driven = Driven()
    for _ in range(10):
        driven.hear(VOICE, 2)
        driven.hear(SILENCE, 10)
    assert driven.kinds == []


def test_without_detection_the_client_commits() -> None:
    driven = Driven(None)
    driven.hear(VOICE, 50)
    driven.hear(SILENCE, 200)
    assert driven.kinds == []
    driven.send({"type": "input_audio_buffer.commit"})
    assert driven.kinds[0] == "input_audio_buffer.committed"
    turn = driven.session.next_turn()
    assert turn is not None
    assert turn.duration_s == pytest.approx(250 * FRAME_MS / 1000)


@pytest.mark.parametrize("model", ["gpt-realtime-whisper", "gpt-live-transcribe"])
def test_models_of_clients_that_commit_have_no_detection_unless_it_is_asked_for(model: str) -> None:
    assert Driven(model=model).session.config.turn_detection is None
    assert Driven({"type": "server_vad"}, model=model).session.config.turn_detection is not None


@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}])
def test_an_empty_commit_is_an_error_that_names_the_event(detection: dict[str, Any] | None) -> None:
    driven = Driven(detection)
    driven.hear(SILENCE, 3)
    driven.send({"type": "input_audio_buffer.commit", "event_id": "mine"})
    [error] = driven.said
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"
    assert error["error"]["event_id"] == "mine"
    driven.send({"type": "input_audio_buffer.clear"})
    assert driven.kinds[1:] == ["input_audio_buffer.cleared"]


def test_what_detection_did_not_take_for_speech_can_be_committed() -> None:
    driven = Driven()
    driven.hear(0.2, 40)
    driven.send({"type": "input_audio_buffer.commit"})
    turn = driven.session.next_turn()
    assert turn is not None
    assert turn.duration_s == pytest.approx(40 * FRAME_MS / 1000)


def test_a_commit_in_the_middle_of_a_turn_loses_nothing() -> None:
    driven = Driven({"type": "server_vad", "prefix_padding_ms": 0, "silence_duration_ms": 320})
    driven.hear(VOICE, 20)
    driven.send({"type": "input_audio_buffer.commit"})
    driven.hear(VOICE, 20)
    driven.hear(SILENCE, 10)
    turns = [driven.session.next_turn(), driven.session.next_turn()]
    assert [turn.duration_s for turn in turns if turn] == pytest.approx([0.64, 0.96])
    assert driven.session.next_turn() is None


def test_clear_forgets_what_was_said() -> None:
    driven = Driven()
    driven.hear(VOICE, 20)
    driven.send({"type": "input_audio_buffer.clear"})
    driven.hear(SILENCE, 50)
    assert driven.kinds == ["input_audio_buffer.speech_started", "input_audio_buffer.cleared"]
    assert driven.session.next_turn() is None


def test_silence_takes_no_memory() -> None:
    driven = Driven(None)
    silence = np.zeros(VOICE_SAMPLES, np.float32)
    for _ in range(3_000):
        driven.session.hear(silence, [SILENCE])
    assert driven.session.n_bytes <= (KEPT_S * SAMPLE_RATE + VOICE_SAMPLES) * 4


@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}])
def test_a_turn_without_end_is_cut_and_not_lost(detection: dict[str, Any] | None) -> None:
    driven = Driven(detection)
    n_frames = int(2 * MAX_TURN_S * SAMPLE_RATE / VOICE_SAMPLES / 100) + 10
    voice = np.full(100 * VOICE_SAMPLES, 0.5, np.float32)
    n_samples = 0
    for _ in range(n_frames):
        driven.session.hear(voice, [VOICE] * 100)
        driven.take()
        while turn := driven.session.next_turn():
            n_samples += len(turn.samples)
    driven.send({"type": "input_audio_buffer.commit"})
    turn = driven.session.next_turn()
    assert turn is not None
    assert n_samples + len(turn.samples) == n_frames * 100 * VOICE_SAMPLES


def test_a_turn_counts_until_it_has_its_text() -> None:
    driven = Driven(None)
    driven.hear(VOICE, 100)
    driven.send({"type": "input_audio_buffer.commit"})
    n_bytes = driven.session.n_bytes
    turn = driven.session.next_turn()
    assert turn is not None
    assert driven.session.n_bytes == n_bytes >= turn.samples.nbytes
    driven.session.completed(turn, "So.", None, None)
    assert driven.session.n_bytes == n_bytes - turn.samples.nbytes


def test_a_wrong_update_changes_nothing() -> None:
    driven = Driven()
    before = driven.session.config
    for audio in (
        {"turn_detection": {"type": "server_vad", "threshold": "loud"}},
        {"format": {"type": "audio/mp3"}},
        {"transcription": {"model": "unknown"}},
    ):
        driven.update(audio)
    assert driven.kinds == ["error"] * 3
    assert driven.said[0]["error"]["param"] == "session.audio.input.turn_detection.threshold"
    assert driven.said[2]["error"]["code"] == "model_not_found"
    assert driven.session.config is before


@pytest.mark.parametrize("kind", ["response.create", "conversation.item.create", None, 7])
def test_events_of_conversations_are_refused_and_the_session_goes_on(kind: object) -> None:
    driven = Driven()
    driven.send({"type": kind, "event_id": "e1"})
    assert driven.of("error")[0]["error"]["event_id"] == "e1"
    driven.hear(VOICE, 10)
    assert "input_audio_buffer.speech_started" in driven.kinds


def test_a_turn_that_fails_says_why() -> None:
    driven = Driven(None)
    driven.hear(VOICE, 10)
    driven.send({"type": "input_audio_buffer.commit"})
    turn = driven.session.next_turn()
    assert turn is not None
    driven.session.failed(turn, Overloaded("Busy."))
    driven.take()
    [failed] = driven.of("failed")
    assert failed["error"] == {
        "type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Busy.", "param": None,
    }  # fmt: skip


def test_words_are_shown_before_the_commit_and_once() -> None:
    driven = Driven(None)
    driven.hear(VOICE, 40)
    partial = driven.session.next_partial()
    assert partial is not None
    assert driven.session.next_partial() is None  # one at a time
    driven.session.heard_partial(partial, [Phrase(" And so my", 1.2)], 0.1)
    driven.hear(VOICE, 40)
    partial = driven.session.next_partial()
    assert partial is not None
    driven.session.heard_partial(partial, [Phrase(" And so my fellow", 2.4)], 0.1)
    driven.take()
    assert [event["delta"] for event in driven.of("delta")] == ["And so my"]
    driven.send({"type": "input_audio_buffer.commit"})
    turn = driven.session.next_turn()
    assert turn is not None
    driven.session.completed(turn, "And so my fellow Americans", None, None)
    driven.take()
    assert "".join(event["delta"] for event in driven.of("delta")) == "And so my fellow Americans"
    assert {event["item_id"] for event in driven.of("delta")} == {turn.item_id}


def test_a_turn_is_decoded_where_its_silence_begins() -> None:
    driven = Driven({"type": "server_vad", "prefix_padding_ms": 0, "silence_duration_ms": 20 * FRAME_MS})
    driven.hear(VOICE, 7)
    driven.hear(SILENCE, TAIL_FRAMES - 1)
    assert driven.session.next_partial() is None
    driven.hear(SILENCE, 1)
    partial = driven.session.next_partial()
    assert partial is not None
    assert len(partial.samples) == (7 + TAIL_FRAMES) * VOICE_SAMPLES
    driven.hear(SILENCE, 20 - TAIL_FRAMES)
    turn = driven.session.next_turn()
    assert turn is not None
    assert partial.is_of(turn)
    assert turn.duration_s == pytest.approx(27 * FRAME_MS / 1000)


def test_what_may_be_a_voice_in_the_silence_is_decoded_with_the_turn() -> None:
    driven = Driven({"type": "server_vad", "prefix_padding_ms": 0, "silence_duration_ms": 20 * FRAME_MS})
    driven.hear(VOICE, 10)
    driven.hear(SILENCE, TAIL_FRAMES)
    partial = driven.session.next_partial()
    assert partial is not None
    driven.hear(0.2, 5)
    driven.hear(SILENCE, 15 - TAIL_FRAMES)
    turn = driven.session.next_turn()
    assert turn is not None
    assert not partial.is_of(turn)
    assert len(turn.samples) == (10 + TAIL_FRAMES + 5 + TAIL_FRAMES) * VOICE_SAMPLES


def test_a_decode_that_comes_after_the_turn_is_ignored() -> None:
    driven = Driven(None)
    driven.hear(VOICE, 40)
    partial = driven.session.next_partial()
    assert partial is not None
    driven.send({"type": "input_audio_buffer.commit"})
    driven.session.heard_partial(partial, [Phrase(" Late", 1.0)], 0.1)
    driven.take()
    assert driven.of("delta") == []


def test_a_slow_machine_decodes_less_often() -> None:
    driven = Driven(None)
    n_partials = {}
    for took_s in (0.1, 3.0):
        driven = Driven(None)
        n_partials[took_s] = 0
        for _ in range(400):
            driven.hear(VOICE, 1)
            if partial := driven.session.next_partial():
                n_partials[took_s] += 1
                driven.session.heard_partial(partial, [], took_s)
    assert n_partials[3.0] < n_partials[0.1] / 3


def test_a_draft_that_fails_is_tried_again_with_more_sound_and_not_at_once() -> None:
    driven = Driven(None)
    driven.hear(VOICE, 40)
    partial = driven.session.next_partial()
    assert partial is not None
    driven.session.heard_partial(partial, None, 0.01)
    assert driven.session.next_partial() is None
    driven.hear(VOICE, 40)
    assert driven.session.next_partial() is not None


@pytest.mark.parametrize("says", ["nothing", "something else each time", "one long phrase"])
def test_the_drafts_of_a_long_turn_stay_short(says: str) -> None:
    driven = Driven(None)
    voice = np.full(50 * VOICE_SAMPLES, 0.5, np.float32)
    longest = 0.0
    for number in range(int(MAX_TURN_S * SAMPLE_RATE / len(voice)) - 1):
        driven.session.hear(voice, [VOICE] * 50)
        if partial := driven.session.next_partial():
            sound_s = len(partial.samples) / SAMPLE_RATE
            longest = max(longest, sound_s)
            # Phrases of Whisper's are 30 s long at most.
            start_s = partial.stretch.start_s
            end_s = start_s + (sound_s if says == "one long phrase" else sound_s / 2)
            phrases = [Phrase(f" {number} words", min(end_s, start_s + 30.0))]
            driven.session.heard_partial(partial, [] if says == "nothing" else phrases, 0.1)
    assert driven.session.next_turn() is None  # all of it was one turn
    assert longest <= 40


@pytest.mark.parametrize(("text", "n_frames"), [(" That is all.", 10), (" and then", 125)])
def test_semantic_detection_waits_for_the_end_of_a_sentence(text: str, n_frames: int) -> None:
    driven = Driven({"type": "semantic_vad"})
    driven.hear(VOICE, 40)
    heard = 0
    while "input_audio_buffer.speech_stopped" not in driven.kinds:
        driven.hear(SILENCE, 1)
        heard += 1
        if partial := driven.session.next_partial():
            driven.session.heard_partial(partial, [Phrase(text, 1.2)], 0.05)
            driven.take()
    assert n_frames - 3 <= heard <= n_frames + 3


def test_an_idle_session_that_wants_to_know_is_told() -> None:
    driven = Driven({"type": "server_vad", "idle_timeout_ms": 5_000})
    driven.hear(SILENCE, 5_000 // FRAME_MS + 1)
    [timeout] = driven.of("timeout_triggered")
    assert timeout["audio_end_ms"] - timeout["audio_start_ms"] == pytest.approx(5_000, abs=2 * FRAME_MS)
    assert driven.of("committed")[0]["item_id"] == timeout["item_id"]


def test_the_end_of_a_session_commits_what_somebody_said() -> None:
    driven = Driven()
    driven.hear(VOICE, 20)
    driven.session.drain()
    assert driven.session.next_turn() is not None
    silent = Driven()
    silent.hear(SILENCE, 20)
    silent.session.drain()
    assert silent.session.next_turn() is None


_EVENTS = st.one_of(
    st.tuples(st.just("hear"), st.sampled_from([VOICE, SILENCE, 0.4]), st.integers(1, 40)),
    st.tuples(st.just("commit")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("partial")),
    st.tuples(
        st.just("detect"),
        st.sampled_from([None, {"type": "server_vad", "silence_duration_ms": 100}, {"type": "semantic_vad"}]),
    ),
)


@given(st.lists(_EVENTS, max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_order_of_events_loses_sound_or_says_it_twice(steps: list[tuple[Any, ...]]) -> None:
    """Turns are stretches of the session in order, and every one that is announced is committed."""
    driven = Driven()
    position, turns = 0, list[Turn]()
    for kind, *values in steps:
        if kind == "hear":
            for _ in range(values[1]):
                ramp = np.arange(position, position + VOICE_SAMPLES, dtype=np.float32)
                driven.session.hear(ramp, [values[0]])
                position += VOICE_SAMPLES
        elif kind == "detect":
            driven.update({"turn_detection": values[0]})
        elif kind == "partial":
            if partial := driven.session.next_partial():
                driven.session.heard_partial(partial, [Phrase(" So.", 0.5)], 0.1)
        else:
            driven.send({"type": f"input_audio_buffer.{kind}"})
        driven.take()
        while turn := driven.session.next_turn():
            turns.append(turn)
    last = 0.0
    for turn in turns:
        assert turn.samples[0] >= last
        np.testing.assert_array_equal(np.diff(turn.samples), 1.0)
        last = turn.samples[-1] + 1
    committed = [event["item_id"] for event in driven.of("committed")]
    assert committed == [turn.item_id for turn in turns]
    assert [event["previous_item_id"] for event in driven.of("committed")] == [None, *committed[:-1]][
        : len(committed)
    ]
    assert all(isinstance(problem, dict) for problem in driven.of("error"))


def test_what_cannot_be_read_is_answered() -> None:
    driven = Driven()
    driven.session.reject(InvalidRequest("No JSON."))
    driven.take()
    assert driven.said[0]["error"]["message"] == "No JSON."
