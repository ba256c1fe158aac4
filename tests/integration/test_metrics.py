"""GET /metrics: it counts what happens, its page lists it, and nothing of a request gets into a label."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, SAMPLES, Sample, server_environment
from tests.support.asgi_client import StreamingClient, Uploading
from tests.support.held_requests import held, until
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import OpenClient
from tests.support.long_audio import speak_for
from whisper_server.core import errors
from whisper_server.core.events import Events
from whisper_server.core.metrics import Metrics
from whisper_server.services.engines import fake

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _device_runs() -> Iterator[None]:
    yield
    fake.GATE.set()


def values_of(page: str) -> Values:
    """Every sample of a page, by name and labels."""
    families = text_string_to_metric_families(page)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def values(client: httpx.AsyncClient) -> Values:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return values_of(response.text)


def value(found: Values, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


async def test_a_transcription_is_counted(client: httpx.AsyncClient, speech: Sample) -> None:
    for _ in range(2):
        await client.post(URL, **form(speech.data))
    found = await values(client)
    assert value(found, "whisper_requests_total", route=URL, method="POST", status="200") == 2
    assert value(found, "whisper_request_seconds_count", route=URL) == 2
    assert value(found, "whisper_audio_seconds_sum") == pytest.approx(2 * speech.duration_s, abs=0.01)
    assert value(found, "whisper_audio_seconds_count") == 2
    assert value(found, "whisper_real_time_factor_count") == 2
    assert value(found, "whisper_transcribing_seconds_total") > 0
    assert value(found, "whisper_models_loaded") == 1
    assert value(found, "whisper_queue_requests") == 0
    assert value(found, "whisper_queue_limit_requests") == 128
    # Each application counts for itself.
    assert value(values_of(Metrics().exposition()[0].decode()), "whisper_audio_seconds_count") == 0


async def test_the_queue_is_shown(open_client: OpenClient) -> None:
    data = speak_for(70)
    async with open_client(queue_requests=1) as client:
        async with held(client, form(data)):
            await client.post(URL, **form(data))
            found = await values(client)
            assert value(found, "whisper_queue_requests") == 1
            assert 70 <= value(found, "whisper_queue_audio_seconds") < 80
            assert len(data) < value(found, "whisper_queue_upload_bytes") < len(data) + 1000
            assert value(found, "whisper_request_failures_total", error="Overloaded") == 1
            assert value(found, "whisper_requests_total", route=URL, method="POST", status="429") == 1
        found = await values(client)
        assert value(found, "whisper_queue_audio_seconds") == 0
        assert value(found, "whisper_queue_upload_bytes") == 0


async def test_clients_that_leave(client: httpx.AsyncClient) -> None:
    request = client.build_request("POST", URL, **form(speak_for(70), stream="true"))
    uploading = Uploading(request)
    uploading.leave()
    await uploading.run(client.app)

    fake.GATE.clear()
    working = StreamingClient(request)
    running = asyncio.create_task(working.run(client.app))
    await until(lambda: client.app.state.services.admission.state().audio_s > 0)
    working.left.set()
    await running
    fake.GATE.set()

    replying = StreamingClient(request, lambda _: replying.left.set())
    await replying.run(client.app)

    found = await values(client)
    for stage in ("upload", "work", "reply"):
        assert value(found, "whisper_clients_gone_total", stage=stage) == 1, stage
    assert value(found, "whisper_requests_total", route=URL, method="POST", status="0") == 2
    assert value(found, "whisper_requests_total", route=URL, method="POST", status="200") == 1
    assert value(found, "whisper_real_time_factor_count") == 0


async def test_failures_by_kind(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.post(URL, **form(b"no audio" * 99))
    await client.post(URL, **form(b"no audio" * 99, model="nobody"))
    monkeypatch.setattr("whisper_server.api.routes._model_object", lambda *_: 1 // 0)
    await client.get("/v1/models/whisper-1")
    found = await values(client)
    for error in ("InvalidAudio", "ModelNotFound", "bug"):
        assert value(found, "whisper_request_failures_total", error=error) == 1, error


async def test_the_work_of_the_device(client: httpx.AsyncClient) -> None:
    """What the scheduler tells."""
    events = client.app.state.services.metrics
    before = await values(client)
    events.window_waited(0.3)
    events.batch_done(3, 80.0, 0.5)
    events.batch_done(1, 10.0, 0.25)
    events.windows_cancelled(5)
    events.windows_failed(2)
    events.worker_replaced()
    after = await values(client)
    told = {
        "whisper_window_wait_seconds_sum": 0.3,
        "whisper_batch_windows_sum": 4,
        "whisper_batch_windows_count": 2,
        "whisper_batch_seconds_sum": 0.75,
        "whisper_batch_audio_seconds_total": 90,
        "whisper_windows_cancelled_total": 5,
        "whisper_windows_failed_total": 2,
        "whisper_workers_replaced_total": 1,
    }
    for name, more in told.items():
        assert value(after, name) - value(before, name) == pytest.approx(more), name


HOSTILE = 'hostile"} 1\nx{y="'


async def test_no_label_comes_from_a_client(client: httpx.AsyncClient, speech: Sample) -> None:
    """Whatever it sends as a path, a method, a model, a header: the labels are from fixed sets."""
    for name in ("hostile", "..%2fhostile", "hostile%22%7d%0a", "h" * 500):
        for url in (f"/{name}", f"/v1/models/{name}", f"{URL}/{name}", f"/{name}?hostile=1"):
            for method in ("GET", "POST", "DELETE", "HOSTILE", "OPTIONS"):
                await client.request(method, url, headers={"x-request-id": "hostile", "user-agent": HOSTILE})
    fields = {"language": HOSTILE, "response_format": HOSTILE, HOSTILE: HOSTILE}
    for changed in ({"model": HOSTILE}, *({name: text} for name, text in fields.items())):
        assert (await client.post(URL, **form(speech.data, **changed))).status_code in {200, 400, 404}
    await client.get("/health", headers={"host": "hostile.example", "origin": "http://hostile"})
    page = (await client.get("/metrics")).text
    assert "hostile" not in page.lower()
    assert "hhh" not in page

    kinds = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)}
    allowed = {
        "route": {*client.app.openapi()["paths"], "/v1/models/{model:path}", "other"},
        "method": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"},
        "status": {"200", "204", "400", "403", "404", "405"},
        "error": {*kinds, "bug", "shutdown", "other"},
        "stage": {"upload", "work", "reply"},
        "state": {"completed", "failed", "expired", "cancelled"},
        "outcome": {"delivered", "retried", "given_up"},
    }
    seen: dict[str, set[str]] = {}
    for name, labels in values_of(page):
        for label, text in labels:
            if label != "le" and name.startswith("whisper_"):
                seen.setdefault(label, set()).add(text)
    assert seen.keys() <= allowed.keys()
    for label, texts in seen.items():
        assert texts <= allowed[label], label
    assert {"other", URL} <= seen["route"]
    assert "other" in seen["method"]


async def test_the_key_is_asked_for(open_client: OpenClient) -> None:
    async with open_client(api_key="key") as client:
        error_of(await client.get("/metrics"), 401, code="invalid_api_key")
        found = await client.get("/metrics", headers={"authorization": "Bearer key"})
        assert value(values_of(found.text), "whisper_request_failures_total", error="Unauthorized") == 1


def test_an_unforeseen_error() -> None:
    counted = Metrics()
    counted.request_failed(HOSTILE)
    assert value(values_of(counted.exposition()[0].decode()), "whisper_request_failures_total", error="other")


def exercised() -> Metrics:
    """Counters that have seen every event, so that every label is there."""
    counted = Metrics()
    counted.request_done(None, "GET", 200, 0.1)
    counted.request_failed("bug")
    counted.client_disconnected("work")
    return counted


def test_the_page_lists_every_metric() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\|", (ROOT / "docs" / "metrics.md").read_text(), re.M
    )
    documented = {
        name: (kind, {label for label in re.split(r",? +", labels) if label}) for name, kind, labels in rows
    }
    found: dict[str, Any] = {}
    for family in exercised().registry.collect():
        if family.name.startswith("whisper_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (family.type, labels)
    assert documented == found


def test_a_watcher_takes_all_that_is_counted() -> None:
    """Who counts nothing is told the same."""
    told = {name for name in vars(Events) if not name.startswith("_")}
    assert told == {name for name in vars(Metrics) if not name.startswith("_")}
    assert Events().exposition() == (b"", "text/plain")


async def test_dropped_lines_of_the_log_are_counted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value(await values(client), "whisper_log_lines_dropped_total") == 0
    monkeypatch.setattr("whisper_server.core.metrics.dropped_lines", lambda: 3)
    assert value(await values(client), "whisper_log_lines_dropped_total") == 3


def test_the_command_line_counts_nothing() -> None:
    code = (
        "import sys; from whisper_server.cli.transcribe import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 'prometheus_client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SAMPLES / "en-plain-000.flac")],
        cwd=ROOT,
        env=server_environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
