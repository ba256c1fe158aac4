"""The arithmetic of slow clients."""

from __future__ import annotations

import pytest

from whisper_server.api.min_rate import Allowance, TransferTimeout

TIMEOUT = TransferTimeout(stall_s=60, min_bytes_per_s=1000)


def seconds_until_spent(timeout: TransferTimeout, bytes_per_s: int, every_s: int = 1) -> int | None:
    """How long a client lasts that sends at this rate; None: longer than a day."""
    allowance = Allowance(timeout)
    for second in range(every_s, 86_400, every_s):
        allowance.spend(every_s, bytes_per_s * every_s)
        if allowance.is_spent:
            return second
    return None


@pytest.mark.parametrize(
    ("bytes_per_s", "lasts_s"), [(0, 60), (1, 61), (500, 120), (900, 600), (1000, None), (50_000, None)]
)
def test_a_client_below_the_rate_does_not_last(bytes_per_s: int, lasts_s: int | None) -> None:
    assert seconds_until_spent(TIMEOUT, bytes_per_s) == lasts_s


def test_a_byte_now_and_then_buys_nothing() -> None:
    allowance = Allowance(TIMEOUT)
    allowance.spend(59, 1)
    assert not allowance.is_spent
    allowance.spend(59, 1)
    assert allowance.is_spent


def test_pauses_are_fine_where_the_average_is() -> None:
    assert seconds_until_spent(TIMEOUT, 1000, every_s=59) is None


def test_a_fast_client_cannot_save_up() -> None:
    allowance = Allowance(TIMEOUT)
    allowance.spend(1, 1 << 30)
    assert allowance.left_s == 60


def test_without_a_rate_any_byte_will_do() -> None:
    timeout = TransferTimeout(stall_s=60, min_bytes_per_s=0)
    assert seconds_until_spent(timeout, 0) == 60
    allowance = Allowance(timeout)
    for _ in range(1000):
        allowance.spend(59, 1)
        assert allowance.left_s == 60
    allowance.spend(60, 0)
    assert allowance.is_spent
