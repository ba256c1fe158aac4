"""What is told of a job: the time that it still takes, and which names can be one."""

from __future__ import annotations

import pytest

from whisper_server.services.jobs.states import ENDED, UNFINISHED, Job, is_job_id
from whisper_server.services.jobs.store import new_id


def job(**fields: object) -> Job:
    values: dict[str, object] = dict.fromkeys(Job.__dataclass_fields__)
    values |= {"status": "in_progress", "owner": "a", "resumed_at": 100.0, "resumed_s": 60.0}
    values |= {"seconds_done": 120.0, "seconds_total": 300.0}
    return Job(**{**values, **fields})  # type: ignore[arg-type]


def test_the_time_left_is_that_of_its_speed_since_it_was_taken_up() -> None:
    assert job().seconds_left(130.0) == 90.0  # 60 s in 30 s; 180 s are left


@pytest.mark.parametrize(
    "unknown", [{"owner": None}, {"seconds_total": None}, {"seconds_done": 60.0}, {"resumed_at": None}]
)
def test_without_a_speed_there_is_no_time(unknown: dict[str, object]) -> None:
    assert job(**unknown).seconds_left(130.0) is None


def test_a_header_that_says_too_little_and_a_clock_that_goes_back_give_no_negative_time() -> None:
    assert job(seconds_total=100.0).seconds_left(130.0) == 0.0
    assert job().seconds_left(50.0) == 0.0


def test_what_has_ended_takes_no_time() -> None:
    for status in ENDED:
        assert job(status=status).seconds_left(130.0) == 0.0
        assert job(status=status).has_ended
    assert not any(job(status=status).has_ended for status in UNFINISHED)


def test_names() -> None:
    assert is_job_id(new_id())
    for text in ("", "job_", "batch_1", "job_../a", "job_" + "a" * 61, "job_\u0661", "job_a\n"):
        assert not is_job_id(text)
