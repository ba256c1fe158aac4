"""An engine that fails at every stage and in every way, under load: who is answered what, and what follows.

Every reply is one reply: the transport asserts that no answer begins or ends twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.conftest import all_samples
from tests.support.asgi_client import events_of
from tests.support.held_requests import inside, until
from tests.support.http_requests import PARTS_OF_AN_ERROR, URL, form
from tests.support.in_process import OpenClient
from whisper_server.core.errors import DeviceOutOfMemory
from whisper_server.services.engines import fake

pytestmark = pytest.mark.long

STAGES = ("encode", "detect_language", "generate", "align")
N_REQUESTS = 8
MAX_BATCH = 4  # of the fake engine
HANGS_S = 3.0  # of WHISPER_BATCH_TIMEOUT_S; a batch of the fake engine takes a thousandth of it
PATIENT_S = 60  # where nothing hangs
WORDS = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
LOST = ("dies", "hangs")  # the worker goes with it


@dataclass
class Fault:
    """Fails some calls, then lets everything pass."""

    kind: str
    times: int
    springs: int = 0
    ends: threading.Event = field(default_factory=threading.Event)  # of the hang

    def __call__(self, _n_windows: int) -> None:
        if self.springs == self.times:
            return
        self.springs += 1
        if self.kind == "hangs":
            assert self.ends.wait(60)
            return
        raise {
            "raises": RuntimeError("the library says no"),
            "runs out of memory": DeviceOutOfMemory("no room"),
            "has no host memory": MemoryError(),
            "dies": SystemExit("died"),
        }[self.kind]


@pytest.fixture(autouse=True)
def _no_traps() -> Iterator[None]:
    yield
    fake.TRAPS.clear()


@pytest.fixture
def reloads() -> Iterator[threading.Event]:
    """Holds up loads while it is clear."""
    event = threading.Event()
    event.set()
    yield event
    event.set()


CLIPS = [sample.data for sample in all_samples() if sample.is_robust][:N_REQUESTS]
ALONE: list[str] = []  # what each of them says alone, once it is known


def request(number: int) -> dict[str, Any]:
    """Every third one streams, the others have their words timed: that is a stage of its own."""
    return form(CLIPS[number], **({"stream": "true"} if number % 3 == 0 else WORDS))


def post(client: httpx.AsyncClient, number: int) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post(URL, **request(number)))


def text_of(reply: httpx.Response) -> str:
    text = events_of(reply.content)[-1]["text"] if "event-stream" in reply.headers["content-type"] else None
    return text if text is not None else reply.json()["text"]  # type: ignore[no-any-return]


async def metric(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def status(client: httpx.AsyncClient) -> str:
    shown: str = (await client.get("/health")).json()["status"]
    return shown


@asynccontextmanager
async def opened(open_client: OpenClient, **fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client; nothing of its requests may be left at the end."""
    async with open_client(**{"batch_timeout_s": PATIENT_S, "vad": False, **fields}) as client:
        yield client
        assert await status(client) == "ok"
        assert inside(client) == (0, 0.0, 0)
        assert {model.leases for model in client.app.state.services.models.loaded()} == {0}
    ours = [thread for thread in threading.enumerate() if "-scheduler-" in thread.name]
    for thread in ours:
        thread.join(60)
        assert not thread.is_alive()


async def learn(client: httpx.AsyncClient) -> None:
    """Load the model, and hear what each request says alone."""
    assert (await post(client, 1)).status_code == 200
    if not ALONE:
        ALONE.extend([text_of(await post(client, number)) for number in range(N_REQUESTS)])
        assert len(set(ALONE)) > N_REQUESTS / 2  # a reply of somebody else would show


def sent_away(replies: list[httpx.Response]) -> list[httpx.Response]:
    """Return the errors; what is none must say what it says alone."""
    errors = []
    for reply, text in zip(replies, ALONE, strict=True):
        if reply.status_code == 200:
            assert text_of(reply) == text
        else:
            errors.append(reply)
            assert set(reply.json()["error"]) == PARTS_OF_AN_ERROR
            assert "library" not in reply.text
            assert "Traceback" not in reply.text
    return errors


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("kind", "times", "codes"),
    [
        ("raises", 3, {500}),
        ("runs out of memory", 3, {503}),
        ("dies", 1, {500}),
        ("hangs", 1, {500}),
    ],
)
async def test_a_fault_harms_its_batch_and_nobody_else(
    open_client: OpenClient, reloads: threading.Event, stage: str, kind: str, times: int, codes: set[int]
) -> None:
    async with opened(open_client, batch_timeout_s=HANGS_S if kind == "hangs" else PATIENT_S) as client:
        await learn(client)
        reloads.clear()
        fake.TRAPS["load"] = lambda _: reloads.wait(60) and None
        fake.TRAPS[stage] = fault = Fault(kind, times)
        running = [post(client, number) for number in range(N_REQUESTS)]
        if kind in LOST:
            await until_status(client, "degraded")
            assert not all(task.done() for task in running)
            reloads.set()
        errors = sent_away(await asyncio.gather(*running))
        fault.ends.set()
        assert fault.springs == times
        assert {reply.status_code for reply in errors} <= codes
        assert len(errors) == await metric(client, "whisper_windows_failed_total") <= MAX_BATCH
        assert bool(errors) or kind not in LOST
        assert await metric(client, "whisper_workers_replaced_total") == (kind in LOST)
        assert text_of(await post(client, 1)) == ALONE[1]


async def until_status(client: httpx.AsyncClient, wanted: str) -> None:
    async def ask() -> None:
        while await status(client) != wanted:  # noqa: ASYNC110  (nobody announces it)
            await asyncio.sleep(0)  # a request inside the process waits for nothing

    await asyncio.wait_for(ask(), 60)


@pytest.mark.parametrize("kind", ["raises", "runs out of memory", "has no host memory", "dies"])
async def test_a_load_that_fails_answers_all_who_wait_and_is_tried_again(
    open_client: OpenClient, kind: str
) -> None:
    async with opened(open_client) as client:
        fake.TRAPS["load"] = Fault(kind, 1)
        replies = await asyncio.gather(*[post(client, number) for number in range(N_REQUESTS)])
        await learn(client)
        errors = sent_away(replies)
        assert errors
        for reply in errors:
            assert reply.status_code == 503
            assert reply.headers["retry-after"].isdecimal()


async def test_a_load_that_hangs_holds_up_nobody_but_those_who_wait_for_it(
    open_client: OpenClient, reloads: threading.Event
) -> None:
    """It has no deadline: on a slow disk it would be wrong."""
    async with opened(open_client, models="other=someone/other") as client:
        reloads.clear()

        def hang(_: int) -> None:
            fake.TRAPS.clear()
            assert reloads.wait(60)

        fake.TRAPS["load"] = hang
        waiting = [post(client, number) for number in range(3)]
        await until(lambda: "load" not in fake.TRAPS)
        (state,) = (await client.get("/health")).json()["models"]
        assert state["state"] == "loading"
        assert (await client.post(URL, **form(CLIPS[0], model="other"))).status_code == 200
        waiting[0].cancel()
        await until(lambda: inside(client)[0] == 2)
        reloads.set()
        assert [(await task).status_code for task in waiting[1:]] == [200, 200]


async def test_a_worker_that_is_lost_again_and_again(open_client: OpenClient) -> None:
    async with opened(open_client) as client:
        assert (await post(client, 1)).status_code == 200
        for losses in range(1, 4):
            fake.TRAPS["generate"] = Fault("dies", 1)
            assert (await post(client, 1)).status_code == 500
            assert (await post(client, 1)).status_code == 200
            assert await metric(client, "whisper_workers_replaced_total") == losses


async def test_without_a_deadline_a_hang_is_waited_for(open_client: OpenClient) -> None:
    """WHISPER_BATCH_TIMEOUT_S=0; nobody looks at the clock, so nothing is told from slow work."""
    async with open_client(batch_timeout_s=0) as client:
        fake.TRAPS["encode"] = fault = Fault("hangs", 1)
        waiting = post(client, 1)
        await until(lambda: fault.springs == 1)
        assert await status(client) == "ok"
        fault.ends.set()
        assert (await waiting).status_code == 200
