"""Models that are loaded and unloaded while requests use them, over HTTP; tests/soak switches real ones."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Sample
from tests.support.asgi_client import StreamingClient, events_of
from tests.support.held_requests import inside, until
from tests.support.http_requests import URL, form
from tests.support.in_process import OpenClient, client_of
from tests.support.long_audio import speak_for
from whisper_server.core.config import Settings
from whisper_server.services.engines import fake


@pytest.fixture(autouse=True)
def _device_runs() -> Iterator[None]:
    yield
    fake.GATE.set()
    fake.TRAPS.clear()


def states(client: httpx.AsyncClient) -> list[tuple[str, str, int]]:
    return [(one.name, one.state, one.leases) for one in client.app.state.services.models.loaded()]


async def test_first_requests_for_one_model_are_one_load(
    nano_settings: Settings, speech: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "whisper_server.services.loaded_models.loader")
    async with client_of(nano_settings) as client:
        replies = await asyncio.gather(*[client.post(URL, **form(speech.data)) for _ in range(6)])
        assert [reply.json()["text"] for reply in replies] == [speech.text] * 6
        assert states(client) == [("nano-whisper", "ready", 0)]
    assert len([line for line in caplog.messages if line.startswith("model nano-whisper loaded")]) == 1


async def test_two_models_load_at_once(open_client: OpenClient, speech: Sample) -> None:
    meet = threading.Barrier(2)
    fake.TRAPS["load"] = lambda _: meet.wait(60) and None  # only passes where both loads run at once
    async with open_client(models="other=someone/other") as client:
        requests = [client.post(URL, **form(speech.data, model=name)) for name in ("whisper-1", "other")]
        assert [reply.status_code for reply in await asyncio.gather(*requests)] == [200, 200]


@pytest.mark.parametrize("path", ["/v1/models/whisper-1", None])
async def test_a_stream_keeps_the_model_that_is_taken_from_it(
    open_client: OpenClient, speech: Sample, path: str | None
) -> None:
    """Unloaded by DELETE, or because another model wants to load and there is one place."""
    talk = speak_for(100)
    async with open_client(models="other=someone/other", max_models=2 if path else 1) as client:
        whole = (await client.post(URL, **form(talk))).json()["text"]
        begun = asyncio.Event()

        def hold(_: bytes) -> None:
            if not begun.is_set():
                fake.GATE.clear()
                begun.set()

        request = client.build_request("POST", URL, **form(talk, stream="true"))
        stream = StreamingClient(request, hold)
        running = asyncio.create_task(stream.run(client.app))
        await begun.wait()
        if path:
            assert (await client.delete(path)).status_code == 200
            assert states(client) == [("whisper-tiny", "unloading", 1)]
            fresh = asyncio.create_task(client.post(URL, **form(speech.data)))
            await until(lambda: ("whisper-tiny", "loading", 1) in states(client) or inside(client)[0] == 2)
        else:
            fresh = asyncio.create_task(client.post(URL, **form(speech.data, model="other")))
            await until(lambda: inside(client)[0] == 2)
            assert states(client) == [("whisper-tiny", "ready", 1)]
        assert not running.done()
        fake.GATE.set()
        await running
        assert events_of(b"".join(stream.parts))[-1]["text"] == whole
        assert (await fresh).status_code == 200
        await until(lambda: [leases for _, _, leases in states(client)] == [0])


@pytest.mark.long
async def test_idle_time_0_in_a_crowd(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(idle_unload_s=0.0, models="other=someone/other", vad=False) as client:
        names = ("whisper-1", "other", "whisper-1")
        for _ in range(3):
            requests = [client.post(URL, **form(speech.data, model=names[n % 3])) for n in range(9)]
            assert {reply.status_code for reply in await asyncio.gather(*requests)} == {200}
        await until(lambda: states(client) == [])
