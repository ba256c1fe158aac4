"""Language, prompt, fallback and silence rules, on an engine that says what the test tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from whisper_server.core.errors import EngineFailure, InvalidRequest
from whisper_server.core.types import DecodeOptions, Placed, Window, WindowJob
from whisper_server.services.decoding.window_decoder import WindowDecoder, compression_ratio, is_silence
from whisper_server.services.engines.base import Encoded, Hypothesis, IsWanted, Sampling, everything
from whisper_server.services.engines.fake import FakeEngine

OPTIONS = DecodeOptions()
LOOP = " la" * 60  # compresses far better than 2.4


@dataclass(frozen=True)
class Rows:
    rows: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> Rows:
        return Rows(tuple(self.rows[row] for row in rows))


@dataclass
class ScriptedEngine(FakeEngine):
    """Row -> temperature -> (text, avg_logprob, no_speech_prob); remembers what it was asked."""

    script: dict[int, dict[float, tuple[str, float, float]]]
    languages: dict[int, dict[str, float]] = field(default_factory=dict)
    bare: dict[int, dict[float, tuple[str, float, float]]] = field(default_factory=dict)  # without a prompt
    asked: list[tuple[tuple[int, ...], float, int]] = field(default_factory=list)
    seeds: list[tuple[int, ...]] = field(default_factory=list)
    prompts: dict[int, list[int]] = field(default_factory=dict)
    lose_a_row: bool = False
    shown: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def encode(self, mels: Any) -> Encoded:
        return Rows(tuple(range(len(mels))))

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        assert isinstance(encoded, Rows)
        return [self.languages[row] for row in encoded.rows]

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        assert isinstance(encoded, Rows)
        self.asked.append((encoded.rows, sampling.temperature, sampling.beam_size))
        self.seeds.append(sampling.seeds)
        results = []
        for row, prompt in zip(encoded.rows, prompts, strict=True):
            self.prompts[row] = list(prompt)
            is_bare = row in self.bare and prompt[0] == self.tokenizer.start
            script = self.bare[row] if is_bare else self.script[row]
            text, avg_logprob, no_speech_prob = script[sampling.temperature]
            results.append(Hypothesis(tuple(self.tokenizer.encode(text)), avg_logprob, no_speech_prob))
        return results[1:] if self.lose_a_row else results


def jobs(*languages: str | None, prompt: str = "", duration_s: float = 1.0) -> list[WindowJob]:
    window = Window(np.zeros((80, 3000), np.float32), duration_s, (Placed(0.0, 0.0, duration_s),))
    return [WindowJob(window, language, prompt) for language in languages]


def test_a_good_text_needs_one_attempt() -> None:
    engine = ScriptedEngine({0: {0.0: (" hello", -0.3, 0.0)}})
    (result,) = WindowDecoder(engine).decode(jobs("en"), OPTIONS)
    assert engine.tokenizer.text(result.tokens) == " hello"
    assert (result.temperature, result.language, result.language_probability) == (0.0, "en", 1.0)
    assert engine.asked == [((0,), 0.0, 5)]


def test_only_the_rows_that_fail_climb() -> None:
    engine = ScriptedEngine(
        {
            0: {0.0: (" fine", -0.2, 0.0)},
            1: {0.0: (" unsure", -1.5, 0.0), 0.2: (" surer", -0.9, 0.0)},
            2: {0.0: (LOOP, -0.1, 0.0), 0.2: (LOOP, -0.1, 0.0), 0.4: (" out of the loop", -0.8, 0.0)},
        }
    )
    results = WindowDecoder(engine).decode(jobs("en", "en", "en"), OPTIONS)
    assert [engine.tokenizer.text(r.tokens) for r in results] == [" fine", " surer", " out of the loop"]
    assert [r.temperature for r in results] == [0.0, 0.2, 0.4]
    assert [(rows, t) for rows, t, _ in engine.asked] == [((0, 1, 2), 0.0), ((1, 2), 0.2), ((2,), 0.4)]


def test_where_all_attempts_fail_the_surest_that_does_not_loop_is_kept() -> None:
    attempts = dict.fromkeys(OPTIONS.temperatures, (" b", -3.0, 0.0))
    engine = ScriptedEngine({0: {**attempts, 0.0: (LOOP, -0.1, 0.0), 0.4: (" a", -1.2, 0.0)}})
    (result,) = WindowDecoder(engine).decode(jobs("en"), OPTIONS)
    assert (engine.tokenizer.text(result.tokens), result.temperature) == (" a", 0.4)
    assert len(engine.asked) == len(OPTIONS.temperatures)


def test_where_every_attempt_loops_the_surest_is_cut_to_one_round() -> None:
    engine = ScriptedEngine({0: dict.fromkeys(OPTIONS.temperatures, (" and so on." + LOOP, -0.1, 0.0))})
    (result,) = WindowDecoder(engine).decode(jobs("en"), OPTIONS)
    assert engine.tokenizer.text(result.tokens) == " and so on. la"
    assert result.compression_ratio < 1.0
    assert len(engine.asked) == len(OPTIONS.temperatures)


def test_a_silent_loop_is_left_alone() -> None:
    engine = ScriptedEngine({0: {0.0: (LOOP, -1.4, 0.9)}})
    (result,) = WindowDecoder(engine).decode(jobs("en"), OPTIONS)
    assert result.is_silence
    assert engine.tokenizer.text(result.tokens) == LOOP


def sound(number: int, seed: int = 0) -> WindowJob:
    window = Window(np.full((80, 3000), number, np.float32), 1.0, (Placed(0.0, 0.0, 1.0),))
    return WindowJob(window, "en", seed=seed)


def seeds_of(*jobs: WindowJob) -> list[tuple[int, ...]]:
    """Return the seeds of each attempt, a tuple of those of its rows, where every attempt fails."""
    unsure = dict.fromkeys(OPTIONS.temperatures, (" unsure", -3.0, 0.0))
    engine = ScriptedEngine(dict.fromkeys(range(len(jobs)), unsure))
    WindowDecoder(engine).decode(jobs, OPTIONS)
    return engine.seeds


def test_chance_depends_on_sound_seed_and_attempt_alone() -> None:
    alone = seeds_of(sound(1))
    assert alone[0] == ()  # nothing is drawn at temperature 0
    assert len({attempt[0] for attempt in alone[1:]}) == 5
    assert all(0 <= attempt[0] < 2**64 for attempt in alone[1:])
    crowd = seeds_of(sound(2), sound(1), sound(1, seed=7), sound(1))
    assert [attempt[1] for attempt in crowd[1:]] == [attempt[0] for attempt in alone[1:]]
    assert all(attempt[1] == attempt[3] for attempt in crowd[1:])
    assert all(len(set(attempt)) == 3 for attempt in crowd[1:])


def test_seeds_are_the_same_after_a_restart() -> None:
    assert [attempt[0] for attempt in seeds_of(sound(1, seed=-1))[1:3]] == [
        13894725170359936582,
        3049260903315511847,
    ]


PROMPT = "Welcome to the lecture on Istio."
SPEECH = " The first part of today is about services that find one another in a cluster."


def with_prompt(
    text: str, without: str, *, duration_s: float = 6.0, no_speech_prob: float = 0.0
) -> ScriptedEngine:
    """Decode a window whose text depends on the prompt."""
    engine = ScriptedEngine({0: {0.0: (text, -1.4 if no_speech_prob else -0.3, no_speech_prob)}})
    engine.bare = {0: {0.0: (without, -0.3, 0.0)}}
    (result,) = WindowDecoder(engine).decode(jobs("en", prompt=PROMPT, duration_s=duration_s), OPTIONS)
    engine.shown = engine.tokenizer.text(result.tokens)
    return engine


@pytest.mark.parametrize("text", ["", " Istio.", f" {PROMPT}", f" {PROMPT}{SPEECH}"])
def test_a_prompt_empties_no_answer_and_comes_back_as_none(text: str) -> None:
    engine = with_prompt(text, SPEECH)
    assert engine.shown == SPEECH
    assert len(engine.asked) == 2


def test_a_prompt_that_makes_silence_of_speech_is_left_out() -> None:
    assert with_prompt(" you", SPEECH, no_speech_prob=0.9).shown == SPEECH


def test_a_prompt_that_does_no_harm_costs_nothing() -> None:
    engine = with_prompt(SPEECH, " never asked")
    assert (engine.shown, len(engine.asked)) == (SPEECH, 1)


def test_words_of_the_prompt_that_were_said_stay_as_the_prompt_spells_them() -> None:
    assert with_prompt(" Istio.", " East here.", duration_s=2.0).shown == " Istio."


def test_without_prompt_or_keywords_nothing_is_doubted() -> None:
    engine = ScriptedEngine({0: {0.0: ("", -0.3, 0.0)}})
    WindowDecoder(engine).decode(jobs("en", duration_s=30.0), OPTIONS)
    assert len(engine.asked) == 1


def test_only_doubtful_rows_are_decoded_again() -> None:
    engine = ScriptedEngine(
        {0: {0.0: ("", -0.3, 0.0)}, 1: {0.0: (SPEECH, -0.3, 0.0)}, 2: {0.0: ("", -0.3, 0.0)}}
    )
    engine.bare = {0: {0.0: (" a", -0.3, 0.0)}, 2: {0.0: (" c", -0.3, 0.0)}}
    results = WindowDecoder(engine).decode(jobs("en", "en", "en", prompt=PROMPT), OPTIONS)
    assert [engine.tokenizer.text(result.tokens) for result in results] == [" a", SPEECH, " c"]
    assert [rows for rows, *_ in engine.asked] == [(0, 1, 2), (0, 2)]


def test_a_row_that_is_not_wanted_any_more_is_not_decoded_again() -> None:
    text = {0.0: ("", -0.3, 0.0)}
    engine = ScriptedEngine({0: text, 1: text})
    WindowDecoder(engine).decode(jobs("en", "en", prompt=PROMPT), OPTIONS, lambda row: row == 0)
    first, *later = [rows for rows, _, _ in engine.asked]
    assert first == (0, 1)
    assert later
    assert all(1 not in rows for rows in later)


def test_where_no_row_is_wanted_nothing_is_searched() -> None:
    engine = ScriptedEngine({0: {0.0: ("", -0.3, 0.0)}})
    with pytest.raises(EngineFailure):
        WindowDecoder(engine).decode(jobs("en", prompt=PROMPT), OPTIONS, lambda _row: False)
    assert engine.asked == []


def test_silence_stops_the_climb_and_is_marked() -> None:
    engine = ScriptedEngine({0: {0.0: (" thanks for watching", -1.4, 0.9)}})
    (result,) = WindowDecoder(engine).decode(jobs("en"), OPTIONS)
    assert result.is_silence
    assert len(engine.asked) == 1


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "silent"),
    [(0.9, -1.4, True), (0.9, -0.5, False), (0.5, -1.4, False), (0.6, -1.4, False)],
)
def test_silence_needs_both_signs(no_speech_prob: float, avg_logprob: float, silent: bool) -> None:
    assert is_silence(no_speech_prob, avg_logprob, OPTIONS) is silent


def test_languages_are_detected_only_where_they_are_missing() -> None:
    text = {0.0: (" x", -0.1, 0.0)}
    engine = ScriptedEngine({0: text, 1: text, 2: text}, languages={1: {"de": 0.7, "en": 0.3, "xx": 0.9}})
    results = WindowDecoder(engine).decode(jobs("fr", None, "es"), OPTIONS)
    assert [(r.language, r.language_probability) for r in results] == [("fr", 1.0), ("de", 0.7), ("es", 1.0)]
    german = engine.tokenizer.start_sequence("de", "transcribe")
    assert engine.prompts[1] == german


def test_a_language_is_chosen_among_the_candidates() -> None:
    text = {0.0: (" x", -0.1, 0.0)}
    scores = {"de": 0.6, "en": 0.3, "fr": 0.1}
    engine = ScriptedEngine(dict.fromkeys(range(3), text), languages=dict.fromkeys(range(3), scores))
    window = jobs("en")[0].window
    choices = [(), ("fr", "en"), ("fr", "xx")]
    results = WindowDecoder(engine).decode([WindowJob(window, None, "", c) for c in choices], OPTIONS)
    assert [r.language for r in results] == ["de", "en", "fr"]
    assert [r.language_probability for r in results] == pytest.approx([0.6, 0.75, 1.0])
    with pytest.raises(InvalidRequest) as caught:
        WindowDecoder(engine).decode([WindowJob(window, None, "", ("xx",))], OPTIONS)
    assert caught.value.param == "languages"


def test_a_window_leaves_the_language_that_is_expected_where_it_is_sure_of_another() -> None:
    text = {0.0: (" x", -0.1, 0.0)}
    scores = {0: {"de": 0.95, "en": 0.05}, 1: {"de": 0.5, "en": 0.2, "fr": 0.3}, 2: {"de": 0.95, "en": 0.05}}
    engine = ScriptedEngine(dict.fromkeys(range(4), text), languages=scores)
    long, short = jobs("en", duration_s=20.0)[0].window, jobs("en")[0].window
    windows = [long, long, short]
    switching = [WindowJob(window, "en", switches=True) for window in windows]
    results = WindowDecoder(engine).decode([*switching, WindowJob(long, "en")], OPTIONS)
    assert [r.language for r in results] == ["de", "en", "en", "en"]
    assert [r.language_probability for r in results] == [0.95, 0.2, 0.05, 1.0]
    assert engine.prompts[0] == engine.tokenizer.start_sequence("de", "transcribe")
    assert results[3].language_scores == {}


def test_the_prompt_goes_before_the_start_sequence() -> None:
    engine = ScriptedEngine({0: {0.0: (" x", -0.1, 0.0)}})
    WindowDecoder(engine).decode(jobs("en", prompt="names: Ada"), OPTIONS)
    assert engine.tokenizer.text(engine.prompts[0]) == " names: Ada"


def test_a_fixed_temperature_is_tried_once() -> None:
    engine = ScriptedEngine({0: {0.7: (" unsure", -2.0, 0.0)}})
    (result,) = WindowDecoder(engine).decode(jobs("en"), DecodeOptions(temperatures=(0.7,)))
    assert result.temperature == 0.7
    assert len(engine.asked) == 1


def test_a_missing_result_is_a_failure_and_never_a_shift() -> None:
    engine = ScriptedEngine({row: {0.0: (" x", -0.1, 0.0)} for row in (0, 1)}, lose_a_row=True)
    with pytest.raises(EngineFailure, match="1 results for 2 windows"):
        WindowDecoder(engine).decode(jobs("en", "en"), OPTIONS)


def test_a_language_the_model_lacks_is_the_clients_error() -> None:
    engine = ScriptedEngine({0: {0.0: (" x", -0.1, 0.0)}})
    engine.tokenizer.is_multilingual = False
    with pytest.raises(InvalidRequest):
        WindowDecoder(engine).decode(jobs("de"), OPTIONS)


def test_compression_ratio() -> None:
    assert compression_ratio("") == 0.0
    assert compression_ratio("hello") < 1.0
    assert compression_ratio(LOOP) > 2.4
