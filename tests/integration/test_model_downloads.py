"""POST /v1/models/{id}: models come before anybody needs them, and no client chooses what is downloaded."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import NANO, Sample, StartServer
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import MakeSettings, client_of
from tests.support.stand_in_hub import SOURCE, Hub
from whisper_server.services.model_files.hub.cache import marker_of, recorded
from whisper_server.services.model_files.hub.fetch import download_repository

FIELDS: dict[str, Any] = {
    "engine": "ctranslate2",
    "models": f"theirs=someone/nano,again=someone/nano,mine={NANO}",
    "threads": 1,
}


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    return [json.loads(frame.partition("data: ")[2]) for frame in lines]


async def test_pulled_once_and_then_needs_no_hub(
    stand_in: Hub, settings: MakeSettings, speech: Sample
) -> None:
    async with client_of(settings(**FIELDS)) as client:
        for _ in range(2):
            reply = await client.post("/v1/models/theirs", timeout=60)
            assert (reply.status_code, reply.json()) == (
                200,
                {"id": "theirs", "object": "model", "pulled": True},
            )
        assert (await client.get("/health")).json()["models"] == []  # on the disk, not in memory
    assert stand_in.downloaded().count("model.safetensors") == 1
    async with client_of(settings(**FIELDS, offline=True)) as client:
        reply = await client.post(URL, **form(speech.data, model="again"), timeout=60)
        assert reply.json()["text"] == speech.text
        assert (await client.post("/v1/models/theirs")).status_code == 200


async def test_progress_as_events(stand_in: Hub, settings: MakeSettings) -> None:
    async with client_of(settings(**FIELDS)) as client:
        events = events_of(await client.post("/v1/models/theirs?stream=true", timeout=60))
        assert events[-1] == {"status": "success"}
        told = [(event["completed"], event["total"]) for event in events[:-1]]
        total = told[-1][1]
        assert told == sorted(told)
        assert told[-1] == (total, total)
        assert {event["status"] for event in events[:-1]} <= {"downloading", "converting"}
        assert events_of(await client.post("/v1/models/theirs?stream=true")) == [{"status": "success"}]


@pytest.mark.parametrize("query", ["", "?stream=true"])
async def test_failure_before_the_first_byte_is_a_503(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    async with client_of(settings(**FIELDS)) as client:
        reply = await client.post(f"/v1/models/theirs{query}", timeout=60)
        assert "HF_ENDPOINT" in error_of(reply, 503, param="model", code="model_unavailable")
    async with client_of(settings(**FIELDS, offline=True)) as client:
        reply = await client.post(f"/v1/models/theirs{query}")
        assert "WHISPER_OFFLINE" in error_of(reply, 503, param="model", code="model_unavailable")


async def test_failure_in_the_middle_is_an_event(stand_in: Hub, settings: MakeSettings) -> None:
    stand_in.break_after, stand_in.refuse_files_after_break = 9_000_000, True
    async with client_of(settings(**FIELDS)) as client:
        events = events_of(await client.post("/v1/models/theirs?stream=true", timeout=60))
        assert events[0]["status"] == "downloading"
        assert events[-1]["error"]["code"] == "model_unavailable"
        stand_in.refuse = None
        assert (await client.post("/v1/models/theirs", timeout=60)).status_code == 200
    assert stand_in.ranges == ["bytes=9000000-"]


async def test_names_that_nobody_configured_reach_no_network(stand_in: Hub, settings: MakeSettings) -> None:
    async with client_of(settings(**FIELDS)) as client:
        for name in ("someone/nano", "nobody", "..%2F..%2Fetc", "https:%2F%2Fevil.example%2Fx"):
            error_of(await client.post(f"/v1/models/{name}"), 404, param="model", code="model_not_found")
        reply = await client.post("/v1/models/theirs", headers={"origin": "https://evil.example"})
        assert reply.status_code == 403
        error_of(await client.post("/v1/models/theirs?stream=maybe"), 400, param="stream")
    assert stand_in.seen == []
    async with client_of(settings(**FIELDS, api_key="secret")) as client:
        assert (await client.post("/v1/models/theirs")).status_code == 401
    assert stand_in.seen == []


async def test_a_folder_of_the_operator_is_converted(settings: MakeSettings, tmp_path: Path) -> None:
    async with client_of(settings(**FIELDS)) as client:
        assert (await client.post("/v1/models/mine", timeout=60)).status_code == 200
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 1


async def test_who_leaves_leaves_the_download_running(
    stand_in: Hub, settings: MakeSettings, tmp_path: Path
) -> None:
    stand_in.gate = threading.Semaphore(3)
    async with client_of(settings(**FIELDS)) as client:
        gone = asyncio.create_task(client.post("/v1/models/theirs", timeout=60))
        assert await asyncio.to_thread(stand_in.sent.acquire, timeout=60)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        joined = asyncio.create_task(client.post("/v1/models/again", timeout=60))
        stand_in.gate.release(1000)
        assert (await joined).status_code == 200
    assert stand_in.downloaded().count("model.safetensors") == 1
    assert recorded(marker_of(SOURCE, tmp_path / "cache")) is not None


@pytest.mark.long
@pytest.mark.parametrize("path", ["/v1/models/theirs", "/v1/models/theirs?stream=true", URL])
def test_the_end_of_the_server_does_not_wait_for_the_hub(
    stand_in: Hub, start_server: StartServer, speech: Sample, tmp_path: Path, path: str
) -> None:
    stand_in.gate = threading.Semaphore(3)  # then it hangs
    server = start_server(
        "--shutdown-grace-s", "0", "--models", "theirs=someone/nano", WHISPER_ENGINE="ctranslate2"
    )
    request = form(speech.data, model="theirs") if path == URL else {}
    replies: list[httpx.Response | Exception] = []

    def ask() -> None:
        try:
            replies.append(httpx.post(server.url + path, timeout=60, **request))
        except httpx.HTTPError as error:  # a stream that had begun may end without its last words
            replies.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(3):
        assert stand_in.sent.acquire(timeout=60)
    assert server.stop() == 0
    asking.join(60)
    assert replies
    assert not [line for line in server.lines if "Traceback" in line or "HTTP Request" in line]
    stand_in.gate.release(1000)
    download_repository(SOURCE, tmp_path / "cache")
    assert stand_in.ranges  # what had arrived is gone on from
