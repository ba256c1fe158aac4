"""The simulated cluster: queues whose answers are known, and what no cluster can do."""

from __future__ import annotations

import math
import statistics

import pytest

from bench.cluster_model import ENDLESS, Arrival, Cluster, Outcome, Plan, poisson, window_bytes
from whisper_server.core.types import WINDOW_FRAMES

CLIP = Arrival(0.0, 1, 5.0)
FILE = Arrival(0.0, 60, 30.0)


def mean_wait_s(plan: Plan, load: float, n: int = 40_000) -> float:
    """Return how long clips wait on average for one replica that works for this share of the time."""
    arrivals = list(poisson(load / plan.clip_service_s, n * plan.clip_service_s / load, 3, CLIP))
    outcome = Cluster(plan, seed=1).run(arrivals)
    assert outcome.n_done == outcome.n_windows == len(arrivals) == len(outcome.clip_s)
    assert outcome.replicas_busy[0] == pytest.approx(load, rel=0.02)
    return statistics.mean(outcome.clip_s) - plan.clip_service_s


def test_a_replica_whose_windows_take_equally_long_is_m_d_1() -> None:
    load, service_s = 0.6, 0.1
    known_s = load * service_s / (2 * (1 - load))
    assert mean_wait_s(Plan(1, 1, service_s, service_s), load) == pytest.approx(known_s, rel=0.05)


def test_a_replica_whose_windows_take_exponential_times_is_m_m_1() -> None:
    load, service_s = 0.6, 0.05
    known_s = load * service_s / (1 - load)
    plan = Plan(1, 1, service_s, service_s, clip_spread=1.0)
    assert mean_wait_s(plan, load) == pytest.approx(known_s, rel=0.05)


def test_a_front_and_a_link_are_queues_too() -> None:
    """Clips by chance, one after the other on a front's core or on its link: M/D/1."""
    load, service_s = 0.5, 0.1
    known_s = load * service_s / (2 * (1 - load))
    arrivals = list(poisson(load / service_s, 5000, 3, CLIP))
    front = Cluster(Plan(1, 1, 0.0, 0.0, front_s=service_s), 1).run(arrivals)
    link = Cluster(Plan(1, 1, 0.0, 0.0, link_bytes_s=1e7, bytes=10**6), 1).run(arrivals)
    assert statistics.mean(front.clip_s) - service_s == pytest.approx(known_s, rel=0.05)
    assert statistics.mean(link.clip_s) - service_s == pytest.approx(known_s, rel=0.05)
    assert front.fronts_busy[0] == pytest.approx(load, rel=0.02)
    assert link.links_busy[0] == pytest.approx(load, rel=0.02)


def test_one_file_takes_its_windows_one_after_the_other_on_one_replica() -> None:
    plan = Plan(1, 1, 2.0, 1.0, front_s=0.1, latency_s=0.25)
    outcome = Cluster(plan, 1).run([FILE])
    # The first window tells the language before the next one goes; then one is always there already.
    known_s = plan.front_s + FILE.n_windows * plan.service_s + (1 + 2 + 1) * plan.latency_s
    assert outcome.ended_s == pytest.approx(known_s)
    assert outcome.n_windows == FILE.n_windows
    assert outcome.audio_per_s * outcome.ended_s == pytest.approx(FILE.n_windows * FILE.audio_s)


@pytest.mark.parametrize("replicas", [1, 3, 16])
@pytest.mark.parametrize("fronts", [1, 2])
def test_nothing_is_lost_and_nobody_works_more_than_all_the_time(replicas: int, fronts: int) -> None:
    plan = Plan(
        replicas, fronts, 1.0, 0.4, 0.3, front_s=0.03, link_bytes_s=125e6, latency_s=0.001, bytes=10**6
    )
    clips = list(poisson(replicas, 60.0, 4, CLIP))
    arrivals = [*clips, *([FILE] * 4), Arrival(20.0, 30, 30.0, "background")]
    outcome = Cluster(plan, 1).run(arrivals)
    assert outcome.n_done == len(arrivals)
    assert outcome.n_windows == sum(each.n_windows for each in arrivals)
    assert len(outcome.clip_s) == len(clips)
    assert min(outcome.clip_s) > plan.front_s + 2 * plan.latency_s
    for shares in (outcome.replicas_busy, outcome.fronts_busy, outcome.links_busy):
        assert all(0 <= share <= 1 + 1e-9 for share in shares)
    decoded_s = sum(each.n_windows * each.audio_s for each in arrivals)
    assert outcome.audio_per_s * outcome.ended_s == pytest.approx(decoded_s)


def test_a_front_is_the_limit_where_replicas_are_many() -> None:
    plan = Plan(64, 1, 1.0, 0.4, front_s=0.1)
    outcome = Cluster(plan, 1, (20.0, 80.0)).run(endless(2))
    assert outcome.limit() == "front 100%"
    assert outcome.audio_per_s == pytest.approx(30 / plan.front_s, rel=0.02)
    assert sum(outcome.replicas_busy) < 64 * 0.2


def test_a_slow_network_is_the_limit() -> None:
    plan = Plan(16, 1, 1.0, 0.4, front_s=0.01, link_bytes_s=1e6, bytes=10**6)
    outcome = Cluster(plan, 1, (20.0, 80.0)).run(endless(1))
    assert outcome.limit() == "network 100%"
    assert outcome.audio_per_s == pytest.approx(30, rel=0.05)


def endless(n: int) -> list[Arrival]:
    return [Arrival(0.0, ENDLESS, 30.0, "background")] * n


def test_a_clip_goes_before_what_waits_of_a_long_file() -> None:
    """It waits for the window that runs, and for no other of the two dozen that are under way."""
    plan = Plan(1, 1, 10.0, 1.0)
    for at_s in (52.0, 67.5, 81.0):
        outcome = Cluster(plan, 1).run([Arrival(0.0, 20, 30.0), Arrival(at_s, 1, 5.0)])
        (clip_s,) = outcome.clip_s
        assert clip_s <= 2 * plan.service_s + plan.clip_service_s


def test_equal_seeds_have_equal_outcomes_and_others_do_not() -> None:
    def run(seed: int) -> Outcome:
        return Cluster(Plan(4, 2, 1.0, 0.4, spread=0.3, front_s=0.03), seed).run(
            [FILE, *poisson(2, 30, 4, CLIP)]
        )

    assert run(1) == run(1) != run(2)


def test_a_window_has_the_size_of_its_spectrogram_and_little_more() -> None:
    spectrogram = 80 * WINDOW_FRAMES * 4
    assert spectrogram < window_bytes() < 1.02 * spectrogram
    assert math.isclose(window_bytes(128) - window_bytes(80), 48 * WINDOW_FRAMES * 4, rel_tol=0.001)
