"""The cluster as a whole: sums, speed, who is silent, and what a refused client is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from whisper_server.cluster.board import SILENT_S, Board, FrontReport, ReplicaReport, Totals
from whisper_server.cluster.throughput import ClusterThroughput
from whisper_server.core.merged_metrics import families_of
from whisper_server.services.admission import MAX_RETRY_S, Throughput


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_sums_are_those_of_all_that_report() -> None:
    board = Board(Clock())
    board.report(ReplicaReport("a", "Models", 2))
    board.report(ReplicaReport("b", "Models", 2))
    board.report(ReplicaReport("c", "Large", 16))
    board.report(FrontReport("f", 5, 0, {"Models": 1}))
    totals = board.report(FrontReport("g", 7, 0, {"Models": 2, "Large": 1}))
    assert totals.slots == {"Models": 4, "Large": 16}
    assert totals.replicas == {"Models": 2, "Large": 1}
    assert totals.streams == {"Models": 3, "Large": 1}
    assert (totals.fronts, totals.steps_left) == (2, 12)


def test_the_speed_is_that_of_all_fronts_together_while_there_is_work() -> None:
    clock, done = Clock(), 0
    board = Board(clock)
    for _ in range(600):
        clock.now_s += 1
        done += 4
        board.report(FrontReport("f", 9, done, {}))
        totals = board.report(FrontReport("g", 9, done, {}))
    assert 7.9 < totals.steps_per_s < 8.1
    board.report(FrontReport("f", 0, done, {}))
    board.report(FrontReport("g", 0, done, {}))
    clock.now_s += 5  # nothing to do is not slow
    assert board.totals().steps_per_s == totals.steps_per_s


def test_what_is_silent_counts_no_more() -> None:
    clock = Clock()
    board = Board(clock)
    board.report(ReplicaReport("a", "Models", 2))
    clock.now_s += SILENT_S
    assert board.report(ReplicaReport("b", "Models", 2)).slots == {"Models": 4}
    clock.now_s += 0.1
    assert board.report(ReplicaReport("b", "Models", 2)).slots == {"Models": 2}


def counted(number: int, gauge: float) -> tuple[CollectorRegistry, Counter]:
    registry = CollectorRegistry()
    counter = Counter("whisper_x", "X.", ["route"], registry=registry)
    counter.labels("/a").inc(number)
    Gauge("whisper_y", "Y.", registry=registry).set(gauge)
    return registry, counter


def test_counters_add_up_and_outlive_their_process_and_gauges_do_not() -> None:
    clock = Clock()
    board = Board(clock)
    (one, counter), (other, _) = counted(3, 10), counted(4, 20)
    board.report(ReplicaReport("a", "Models", 1, families_of(one)))
    board.report(ReplicaReport("b", "Models", 1, families_of(other)))
    page = board.page()[0].decode()
    assert 'whisper_x_total{route="/a"} 7.0' in page
    assert "whisper_y 30.0" in page
    counter.labels("/a").inc()
    board.report(ReplicaReport("a", "Models", 1, families_of(one)))  # instead of the report before it
    clock.now_s += SILENT_S + 1
    board.report(ReplicaReport("b", "Models", 1, families_of(other)))
    page = board.page()[0].decode()
    assert 'whisper_x_total{route="/a"} 8.0' in page
    assert "whisper_y 20.0" in page


def test_a_refused_client_is_told_the_time_that_the_cluster_needs_for_this_front() -> None:
    throughput = ClusterThroughput()
    assert throughput.retry_after_s(10) == Throughput().retry_after_s(10)  # nothing is known yet
    throughput.update(Totals(fronts=2, steps_left=100, steps_per_s=20.0), own_left=50)
    assert throughput.retry_after_s(100) == 10  # half of the work is elsewhere
    throughput.update(Totals(fronts=2, steps_left=50, steps_per_s=20.0), own_left=50)
    assert throughput.retry_after_s(100) == 5
    assert throughput.retry_after_s(0.5) == 1
    assert throughput.retry_after_s(1e6) == MAX_RETRY_S


def test_steps_are_counted_for_the_board() -> None:
    throughput = ClusterThroughput()
    throughput.gain(3)
    throughput.gain(4)
    assert throughput.steps_done == 7
