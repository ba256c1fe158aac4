"""What the audio of one request may cost, over all decoders that it opens."""

from __future__ import annotations

import pytest

from whisper_server.core.errors import InvalidAudio
from whisper_server.services.audio import budget as limits
from whisper_server.services.audio.budget import Budget, Spent, Work


def work(budget: Budget | None = None, size_bytes: int | None = 1 << 20) -> Work:
    return Work(budget or Budget(), size_bytes)


def test_the_processor_time_of_a_thread_is_counted() -> None:
    one = work()
    with one.measured():
        sum(range(200_000))
    first_s = one.spent.cpu_s
    assert first_s > 0
    with one.measured():
        sum(range(200_000))
    assert one.spent.cpu_s > first_s


def test_time_is_for_the_length_of_the_sound() -> None:
    one = work(size_bytes=0)
    one.spent.cpu_s = limits.BASE_CPU_S + 1.0
    with one.measured():
        with pytest.raises(InvalidAudio, match="far more work"):
            one.packet(1, 1)
        one.spent.sound_s = 1.1 / limits.CPU_PER_SOUND
        one.packet(1, 1)


def test_decoders_of_one_request_share_what_it_may_cost() -> None:
    budget = Budget()
    before, one = work(budget), work(budget)
    before.spent.cpu_s = limits.BASE_CPU_S + 1.0
    with one.measured(), pytest.raises(InvalidAudio):
        one.packet(1, 1)
    with work().measured():
        pass
    assert budget.besides(one.spent).fields() == before.spent.fields()
    copy = Spent()
    copy.set(*before.spent.fields())
    assert copy == before.spent


def test_packets_that_give_nothing() -> None:
    one = work()
    with one.measured():
        one.spent.empty_packets = limits.BASE_EMPTY_PACKETS
        with pytest.raises(InvalidAudio):
            one.packet(1, 0)
        one.spent.full_packets = 2
        one.packet(1, 1)


def test_the_same_bytes_again_and_again() -> None:
    one = work(size_bytes=1000)
    most = limits.BASE_PACKET_BYTES + limits.PACKET_BYTES_PER_BYTE * 1000
    with one.measured():
        one.packet(most, 1)
        with pytest.raises(InvalidAudio):
            one.packet(1, 1)


def test_filter_graphs() -> None:
    one = work()
    for _ in range(limits.BASE_GRAPHS):
        one.graph()
    with pytest.raises(InvalidAudio):
        one.graph()
    one.spent.sound_s = 3 / limits.GRAPHS_PER_SOUND
    one.graph()
