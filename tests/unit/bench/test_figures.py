"""The arithmetic of the benchmarks, and what their tables say."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from bench import audio, figures
from bench.serving.journal import Journal
from bench.serving.report import SINGLE, compared, loops
from bench.serving.servers import Setup
from bench.serving.visit import Plan, Visit


def test_percentile_is_a_value_that_was_there() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [figures.percentile(values, p) for p in (0, 50, 95, 100)] == [1.0, 3.0, 5.0, 5.0]
    assert figures.percentile(list(map(float, range(1, 101))), 99) == 99.0
    assert math.isnan(figures.percentile([], 50))


def test_arrivals_come_at_the_rate_by_chance_and_again_the_same() -> None:
    times = figures.arrivals_s(4.0, 4000, seed=1)
    assert times == figures.arrivals_s(4.0, 4000, seed=1) != figures.arrivals_s(4.0, 4000, seed=2)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(1000, rel=0.1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.1)  # as an exponential has it


def test_slope_of_a_line() -> None:
    assert figures.slope([0, 1, 2, 3], [5, 7, 9, 11]) == pytest.approx(2)
    assert math.isnan(figures.slope([1], [1]))


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [("a b c", "A b, c.", 0), ("a b c", "a c", 1), ("a b c", "a x c d", 2), ("a b", "", 2), ("", "a", 1)],
)
def test_word_errors(said: str, heard: str, errors: int) -> None:
    assert figures.word_errors(said, heard) == errors


def test_word_edits_by_kind() -> None:
    assert figures.word_edits("one two three four", "One, too three") == (1, 1, 0)
    assert figures.word_edits("one two", "one and two more") == (0, 0, 2)
    assert figures.word_edits("", "") == (0, 0, 0)


def test_better_by_is_above_one_where_we_are_ahead() -> None:
    assert figures.better_by(3.0, 2.0, higher_is_better=True) == 1.5
    assert figures.better_by(2.0, 3.0, higher_is_better=False) == 1.5
    assert math.isnan(figures.better_by(1.0, 0.0, higher_is_better=True))


def test_spread_leaves_out_what_is_no_number() -> None:
    assert figures.Spread.of([3.0, 1.0, float("nan"), 2.0]) == figures.Spread(2.0, 1.0, 3.0)
    assert figures.Spread.of([]).shown(2) == "-"


def test_table_compares_with_ours_and_leaves_out_what_was_not_measured() -> None:
    visits = {
        name: [Visit(name, {"short clip, s": value}, {"clients": [value]})]
        for name, value in (("ours", 1.0), ("theirs", 2.0))
    }
    lines = compared(visits, "ours", SINGLE).splitlines()
    assert lines[0] == "| median (min - max) | 5 s clip, s | ours ahead |"
    assert lines[2:] == [
        "| ours | 1.00 (1.00 - 1.00) |  |",
        "| theirs | 2.00 (2.00 - 2.00) | 2.00 x |",
    ]
    assert "| theirs | as answered |" in loops(visits, "clients")
    assert loops(visits, "open 3") == ""


def test_slow_servers_get_fewer_requests_but_never_fewer_than_clients() -> None:
    plan = Plan(seconds=10)
    assert [plan.count(per_s, 16) for per_s in (0.1, 5.0, 1e6)] == [16, 50, 1000]


def test_clips_have_their_lengths_and_every_word_of_their_text() -> None:
    mix = audio.mix()
    lengths = sorted(clip.duration_s for clip in mix)
    assert (lengths[0], lengths[-1], len(mix)) == (3.0, 15.0, audio.MIX_SIZE)
    assert {clip.language for clip in mix} == {"en", "fr", "de", "es"}
    for clip in [*mix, audio.short(), audio.window()]:
        assert len(clip.data) == 44 + 2 * round(clip.duration_s * audio.RATE)
        assert clip.text
    assert mix == audio.mix()
    assert Path(audio.SAMPLES, "clips.json").is_file()


def test_a_journal_gives_back_only_visits_of_the_same_conditions(tmp_path: Path) -> None:
    setup, plan = Setup("tiny"), Plan()
    visit = Visit("ours", {"speed": 2.0}, {"clients": [0.5]}, {"mix": "a"})
    journal = Journal(tmp_path / "visits.jsonl")
    assert journal.find(setup, plan, 0, "ours") is None
    journal.add(setup, plan, 0, visit)
    assert Journal(tmp_path / "visits.jsonl").find(setup, plan, 0, "ours") == visit
    assert journal.find(setup, plan, 1, "ours") is None
    assert journal.find(setup, plan, 0, "theirs") is None
    assert journal.find(replace(setup, beam=1), plan, 0, "ours") is None
    assert journal.find(setup, replace(plan, seconds=1), 0, "ours") is None
