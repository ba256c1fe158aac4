"""The store, on SQLite and on PostgreSQL: leases, bounds, what is removed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError

from whisper_server.core.errors import ConfigError, InvalidRequest, JobNotFound, Overloaded
from whisper_server.services.jobs.schema import (
    jobs,
    keys,
    meta,
    open_database,
    segments,
    sqlite_url,
    writing,
)
from whisper_server.services.jobs.states import NewJob, OnceKey
from whisper_server.services.jobs.store import (
    JobLimits,
    JobStore,
    LeaseLost,
    Progress,
    Swept,
    new_id,
)

LIMITS = JobLimits(100, 1e6, 1 << 30)
NEW = NewJob("/v1/audio/transcriptions", "tiny", "{}", 60.0, 1000)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "jobs.sqlite3")
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    opened = JobStore(open_database(url))
    yield opened
    opened.close()


def create(store: JobStore, new: NewJob = NEW, limits: JobLimits = LIMITS) -> str:
    return store.create(new, limits, new_id()).id


def test_the_oldest_job_is_taken_first_and_once(store: JobStore) -> None:
    ids = [create(store) for _ in range(3)]
    taken = [store.claim(owner, 60.0) for owner in "abc"]
    assert [job and job.id for job in taken] == ids
    assert store.claim("d", 60.0) is None
    job = store.get(ids[0])
    assert (job.status, job.owner, job.taken) == ("in_progress", "a", 0)


def test_a_request_that_comes_again_makes_one_job(url: str, store: JobStore) -> None:
    """To several servers at once, as where the reply to the first was lost."""
    once = OnceKey.of("mine", NEW, [b"sound"])
    stores = [JobStore(open_database(url)) for _ in range(4)]
    start = threading.Barrier(4)

    def make(number: int) -> str:
        start.wait(30)
        return stores[number].create(NEW, LIMITS, new_id(), once).id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(make, range(4)))) == 1
    for each in stores:
        each.close()
    assert len(store.page(10, None, None)[0]) == 1


def test_a_key_is_for_one_request_as_long_as_its_job_is_known(url: str, store: JobStore) -> None:
    once = OnceKey.of("mine", NEW, [b"sound"])
    first = store.create(NEW, LIMITS, new_id(), once).id
    full = JobLimits(1, 1e6, 1 << 30)
    assert store.create(NEW, full, new_id(), once).id == first  # it takes no more room
    others = (
        OnceKey.of("mine", NEW, [b"other"]),
        OnceKey.of("mine", NEW, ()),
        OnceKey.of("mine", replace(NEW, endpoint="/v1/audio/translations"), [b"sound"]),
    )
    for other in others:
        with pytest.raises(InvalidRequest, match="Idempotency-Key"):
            store.create(NEW, LIMITS, new_id(), other)
    assert store.create(NEW, LIMITS, new_id(), OnceKey.of("another", NEW, [b"sound"])).id != first
    store.remove(first)
    assert store.create(NEW, LIMITS, new_id(), once).id != first
    engine = open_database(url)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(keys)) == 2
    engine.dispose()


def test_the_parts_of_a_file_are_the_file() -> None:
    assert OnceKey.of("a", NEW, [b"so", b"und"]) == OnceKey.of("a", NEW, [b"sound"])


def test_many_servers_never_take_the_same_job(url: str) -> None:
    stores = [JobStore(open_database(url)) for _ in range(4)]
    for _ in range(20):
        create(stores[0])
    together = threading.Barrier(4)

    def take_all(number: int) -> list[str]:
        together.wait(30)
        found = []
        while (job := stores[number].claim(f"server {number}", 60.0)) is not None:
            found.append(job.id)
        return found

    with ThreadPoolExecutor(4) as threads:
        taken = [job_id for each in threads.map(take_all, range(4)) for job_id in each]
    assert len(taken) == len(set(taken)) == 20
    for each in stores:
        each.close()


def test_a_lease_that_is_over_or_whose_owner_is_dead_is_taken(store: JobStore) -> None:
    job_id = create(store)
    assert store.claim("a", 0.0) is not None
    again = store.claim("b", 60.0)
    assert again is not None
    assert (again.id, again.taken) == (job_id, 1)
    assert store.claim("c", 60.0) is None
    third = store.claim("c", 60.0, dead=["b"])
    assert third is not None
    assert third.taken == 2
    for stale in ("a", "b"):
        with pytest.raises(LeaseLost):
            store.save(job_id, stale, 60.0, Progress(1.0, None, 0, [("x", "{}")]))
        with pytest.raises(LeaseLost):
            store.finish(job_id, stale, "completed", outcome="{}")
        with pytest.raises(LeaseLost):
            store.release(job_id, stale)
    assert store.segments(job_id) == []


def test_a_job_at_which_servers_end_again_and_again_is_known(store: JobStore) -> None:
    job_id = create(store)
    for number in range(4):
        job = store.claim(f"server {number}", 0.0)
        assert job is not None
        assert job.is_left_too_often == (number >= 3)
    store.save(job_id, "server 3", 60.0, Progress(1.0, None))
    assert not store.get(job_id).is_left_too_often  # it made progress


def test_what_is_saved_is_there(store: JobStore) -> None:
    job_id = create(store)
    store.claim("a", 60.0)
    store.save(job_id, "a", 60.0, Progress(5.0, 9.0, 0, [(" one", "1"), (" two", "2")], [("k", "w")]))
    store.save(job_id, "a", 60.0, Progress(4.0, None, 1, [(" three", "3")], [("k", "v")]))
    assert store.segments(job_id) == ["1", "3"]
    assert store.segments(job_id, 1) == ["3"]
    assert store.text(job_id) == "one three"
    assert store.windows(job_id) == {"k": "v"}
    job = store.get(job_id)
    assert (job.seconds_done, job.seconds_total, job.n_segments) == (5.0, 9.0, 2)
    store.save(job_id, "a", 60.0, Progress(9.0, 9.0, 1, is_last=True))
    ended = store.finish(job_id, "a", "completed", outcome="{}")
    assert (store.segments(job_id), ended.n_segments, ended.upload_bytes) == (["1"], 1, 0)
    assert store.windows(job_id) == {}
    assert (ended.status, ended.owner, ended.has_ended) == ("completed", None, True)


def test_what_is_released_waits_for_its_time(store: JobStore) -> None:
    job_id = create(store)
    store.claim("a", 60.0)
    store.release(job_id, "a", delay_s=1000.0)
    assert store.claim("a", 60.0) is None
    other = create(store)
    claimed = store.claim("a", 60.0)
    assert claimed is not None
    assert claimed.id == other
    store.release(other, "a")
    again = store.claim("b", 60.0)
    assert again is not None
    assert again.taken == 0  # it was given back


def test_a_cancelled_job_ends_with_its_work(store: JobStore) -> None:
    waiting, running, left = create(store), create(store), create(store)
    store.cancel(waiting)
    assert store.get(waiting).status == "cancelled"
    store.claim("a", 60.0)
    store.claim("b", 60.0)
    assert store.cancel(running).status == store.cancel(left).status == "cancelling"
    assert store.save(running, "a", 60.0, Progress(0.0, None)).status == "cancelling"
    assert store.finish(running, "a", "cancelled").status == "cancelled"
    store.release(left, "b")
    assert store.get(left).status == "cancelled"
    assert store.cancel(running).status == "cancelled"


def test_bounds(store: JobStore) -> None:
    limits = JobLimits(2, 100.0, 2500)
    create(store, limits=limits)
    with pytest.raises(Overloaded, match="seconds"):
        create(store, limits=limits)
    small = NewJob(NEW.endpoint, NEW.model, "{}", None, 1400)
    with pytest.raises(Overloaded, match="MiB"):
        create(store, NewJob(NEW.endpoint, NEW.model, "{}", None, 1600), limits)
    second = create(store, small, limits)
    with pytest.raises(Overloaded, match="2 unfinished jobs"):
        create(store, small, limits)
    store.cancel(second)
    create(store, small, limits)
    assert store.get(second).status == "cancelled"


def test_a_lone_file_is_never_too_much(store: JobStore) -> None:
    assert create(store, NewJob(NEW.endpoint, NEW.model, "{}", 1e9, 1 << 40), JobLimits(1, 1.0, 1))


def test_old_jobs_go_and_unfinished_ones_expire(store: JobStore) -> None:
    done, waiting, running = create(store), create(store), create(store)
    store.cancel(done)
    assert store.sweep(3600.0, 1 << 30) == Swept([], [])
    for _ in range(2):
        store.claim("a", 60.0)
    store.release(waiting, "a")
    with writing(store._engine) as connection:
        connection.execute(update(jobs).values(created_at=1.0))
        connection.execute(update(jobs).where(jobs.c.id == done).values(ended_at=1.0))
    assert store.sweep(3600.0, 1 << 30) == Swept([waiting], [done])
    assert store.get(waiting).status == "expired"
    assert store.get(running).status == "in_progress"
    with pytest.raises(JobNotFound):
        store.get(done)
    assert store.existing([done, waiting, running]) == {running}


def test_the_oldest_results_make_room(store: JobStore) -> None:
    ids = []
    for number in range(3):
        ids.append(create(store))
        store.claim("a", 60.0)
        store.save(ids[-1], "a", 60.0, Progress(1.0, None, 0, [("x", str(number) * 400)]))
        store.finish(ids[-1], "a", "completed", outcome="{}")
    assert store.sweep(3600.0, 900).removed == ids[:1]
    create(store, limits=JobLimits(9, 1e6, 1000))
    for each in ids:
        with pytest.raises(JobNotFound):
            store.get(each)


def test_what_is_removed_is_given_back_to_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    store = JobStore(open_database(sqlite_url(file)))
    job_id = create(store)
    store.claim("a", 60.0)
    store.save(job_id, "a", 60.0, Progress(1.0, None, 0, [("x", "y" * (4 << 20))]))
    store.finish(job_id, "a", "completed", outcome="{}")
    assert store.sweep(3600.0, 0).removed == [job_id]
    store.close()  # and what is in the log beside it
    assert file.stat().st_size < 1 << 20


def test_tables_of_another_version_are_left_alone(url: str) -> None:
    engine = open_database(url)
    with writing(engine) as connection:
        connection.execute(update(meta).values(value="99"))
    engine.dispose()
    with pytest.raises(ConfigError, match="version 99"):
        open_database(url)


def test_what_is_said_stays_out_of_errors(store: JobStore, url: str) -> None:
    job_id = create(store)
    store.claim("a", 60.0)
    with writing(store._engine) as connection:
        segments.drop(connection)
    with pytest.raises(SQLAlchemyError) as caught:
        store.save(job_id, "a", 60.0, Progress(1.0, None, 0, [("the secret word", "{}")]))
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="WHISPER_JOB_STORE"):
        open_database(sqlite_url(tmp_path / "no folder" / "jobs.sqlite3"))


def test_a_page_goes_on_behind_a_job(store: JobStore) -> None:
    ids = [create(store) for _ in range(5)]
    found, has_more = store.page(2, None, None)
    assert ([job.id for job in found], has_more) == (ids[:2:-1], True)
    rest, has_more = store.page(9, found[-1].id, None)
    assert ([job.id for job in rest], has_more) == (ids[2::-1], False)
    with pytest.raises(JobNotFound):
        store.page(2, "job_0", None)
    with writing(store._engine) as connection:  # of the same moment: the id decides
        connection.execute(update(jobs).values(created_at=1.0))
    seen: list[str] = []
    while len(seen) < 5:
        page, _ = store.page(2, seen[-1] if seen else None, None)
        seen += [job.id for job in page]
    assert sorted(seen) == sorted(ids)
