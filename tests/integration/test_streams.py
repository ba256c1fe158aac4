"""stream=true: events while the text is being made, and what happens when it cannot go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Sample, all_samples
from tests.support.asgi_client import StreamingClient, events_of
from tests.support.audio_files import wav_bytes
from tests.support.http_requests import URL, b64, error_of, form
from tests.support.in_process import OpenClient
from tests.support.long_audio import speak_for
from whisper_server.services.engines import fake

ROBUST = [sample for sample in all_samples() if sample.is_robust and sample.kind == "plain"]


@pytest.fixture(autouse=True)
def _device_runs() -> Iterator[None]:
    yield
    fake.GATE.set()


@pytest.fixture(scope="session")
def talk() -> bytes:
    """Over a minute of speech: three windows or more."""
    return speak_for(70)


def text_of(events: list[dict[str, Any]]) -> str:
    """Check the order of a transcript's events; return its text."""
    *deltas, done = events
    assert done["type"] == "transcript.text.done"
    assert set(done) == {"type", "text"}
    assert all(event["type"] == "transcript.text.delta" for event in deltas)
    assert all(event["delta"] for event in deltas)
    assert "".join(event["delta"] for event in deltas) == done["text"]
    text: str = done["text"]
    return text


async def test_real_speech_streams_the_text_that_it_has_without(nano_client: httpx.AsyncClient) -> None:
    for sample in ROBUST[:4]:
        streamed = await nano_client.post(URL, **form(sample.data, stream="true"))
        assert streamed.status_code == 200
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert text_of(events_of(streamed.text)) == sample.text


@pytest.mark.parametrize("response_format", ["json", "text"])
async def test_a_stream_has_an_event_per_phrase(
    client: httpx.AsyncClient, talk: bytes, response_format: str
) -> None:
    plain = (await client.post(URL, **form(talk))).json()["text"]
    events = events_of(
        (await client.post(URL, **form(talk, stream="true", response_format=response_format))).text
    )
    assert text_of(events) == plain
    assert len(events) > 3


async def test_the_json_body_streams_too(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(URL, json={"audio": b64(speech.data), "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert text_of(events_of(response.text)).startswith("heard ")


async def test_silence_is_done_at_once(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, **form(wav_bytes(bytes(64_000)), stream="true"))
    assert events_of(response.text) == [{"type": "transcript.text.done", "text": ""}]


@pytest.mark.parametrize("response_format", ["srt", "vtt"])
async def test_subtitles_do_not_stream(
    client: httpx.AsyncClient, speech: Sample, response_format: str
) -> None:
    response = await client.post(URL, **form(speech.data, stream="true", response_format=response_format))
    assert "stream" in error_of(response, 400, param="response_format")


async def test_errors_before_the_first_event_keep_their_status(
    client: httpx.AsyncClient, speech: Sample
) -> None:
    error_of(await client.post(URL, **form(b"no audio" * 99, stream="true")), 400, param="file")
    error_of(
        await client.post(URL, json={"audio": b64(b"no audio" * 99), "stream": True}), 400, param="audio"
    )
    response = await client.post(URL, **form(speech.data, stream="true", model="nobody"))
    error_of(response, 404, param="model", code="model_not_found")


async def test_the_first_event_comes_after_the_first_window(client: httpx.AsyncClient, talk: bytes) -> None:
    """The device is held as soon as the first event is out; only an event that waited would not come."""
    services = client.app.state.services

    def first_only(part: bytes) -> None:
        fake.GATE.clear()
        streaming.left.set()

    streaming = StreamingClient(client.build_request("POST", URL, **form(talk, stream="true")), first_only)
    await streaming.run(client.app)
    assert streaming.status == 200
    assert [event["type"] for event in events_of(streaming.parts[0])] == ["transcript.text.delta"]
    # It left in the middle: everything is given back although the device still stands.
    assert len(streaming.parts) == 1
    assert not streaming.is_complete
    assert [model.leases for model in services.models.loaded()] == [0]
    fake.GATE.set()
    assert (await client.post(URL, **form(talk))).status_code == 200


async def test_leaving_before_the_first_event(
    client: httpx.AsyncClient, speech: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    fake.GATE.clear()
    streaming = StreamingClient(client.build_request("POST", URL, **form(speech.data, stream="true")))
    streaming.left.set()
    with caplog.at_level(logging.INFO):
        await streaming.run(client.app)
    assert streaming.sent == []
    assert [model.leases for model in client.app.state.services.models.loaded()] in ([], [0])
    assert "outcome=client_disconnected" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_error_later_on_is_an_event(
    open_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    # The limit is met while reading, which is ahead of what is decoded by eight windows at most and by the
    # two minutes whose loudness is known: the first window is answered before, however busy the machine is.
    data = speak_for(480)
    async with open_client(max_audio_seconds=470) as client:
        streaming = StreamingClient(client.build_request("POST", URL, **form(data, stream="true")))
        with caplog.at_level(logging.INFO, "whisper_server.requests"):
            await streaming.run(client.app)
    assert streaming.status == 200
    assert streaming.is_complete
    *deltas, last = events_of(b"".join(streaming.parts))
    assert deltas
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert last["type"] == "error"
    assert last["error"]["type"] == "invalid_request_error"
    assert last["error"]["param"] == "file"
    assert "470 seconds" in last["error"]["message"]
    lines = [each.getMessage() for each in caplog.records if each.name == "whisper_server.requests"]
    assert len(lines) == 1  # written once, when the stream has ended
    assert "status=200" in lines[0]
    assert "outcome=AudioTooLong" in lines[0]
    assert "format=stream" in lines[0]


async def test_a_fault_of_ours_later_on_tells_nothing_of_itself(
    client: httpx.AsyncClient, talk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(part: bytes) -> None:
        monkeypatch.setattr(
            "whisper_server.services.decoding.segments.of",
            lambda *_: (_ for _ in ()).throw(KeyError("secret")),
        )

    streaming = StreamingClient(client.build_request("POST", URL, **form(talk, stream="true")), break_down)
    await streaming.run(client.app)
    last = events_of(streaming.parts[-1])[-1]
    assert last["error"]["type"] == "server_error"
    assert "secret" not in last["error"]["message"]
    assert streaming.is_complete
