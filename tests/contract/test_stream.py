"""Streams of a real server, as the official Python client reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NANO, Sample, Server, StartServer
from tests.support.long_audio import speak_for

openai = pytest.importorskip("openai", reason="openai is not installed")


def client_of(server: Server) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", _strict_response_validation=True)


def test_streamed_text_is_the_plain_text(start_server: StartServer, nano_cache: Path, speech: Sample) -> None:
    server = start_server(
        "--model", str(NANO), WHISPER_ENGINE="ctranslate2", WHISPER_CACHE_DIR=str(nano_cache)
    )
    with client_of(server) as client:
        create = client.audio.transcriptions.create
        events = list(create(model="nano-whisper", file=speech.data, stream=True))
        *deltas, done = events
        assert [event.type for event in deltas] == ["transcript.text.delta"] * len(deltas)
        assert done.type == "transcript.text.done"
        assert done.usage is None
        assert "".join(event.delta for event in deltas) == done.text == speech.text
        assert create(model="nano-whisper", file=speech.data, stream=False).text == speech.text


def test_errors_before_and_after_the_first_event(start_server: StartServer, speech: Sample) -> None:
    server = start_server("--max-audio-seconds", "470")
    with client_of(server) as client:
        create = client.audio.transcriptions.create
        with pytest.raises(openai.NotFoundError) as before:
            create(model="nobody", file=speech.data, stream=True)
        assert before.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError):
            create(model="whisper-1", file=b"no audio", stream=True)
        seen: list[Any] = []
        with pytest.raises(openai.APIError, match="470 seconds") as after:
            seen.extend(create(model="whisper-1", file=speak_for(480), stream=True))
        assert {event.type for event in seen} == {"transcript.text.delta"}
        assert (after.value.type, after.value.param) == ("invalid_request_error", "file")
        # The connection survived, and so did the server.
        assert create(model="whisper-1", file=speech.data).text
    assert server.stop() == 0
    assert len([line for line in server.lines if "outcome=AudioTooLong" in line]) == 1
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_client_that_stops_listening(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    with client_of(server) as client:
        stream = client.audio.transcriptions.create(model="whisper-1", file=speak_for(200), stream=True)
        assert next(iter(stream)).type == "transcript.text.delta"
        stream.close()
        assert client.audio.transcriptions.create(model="whisper-1", file=speech.data).text
    assert server.stop() == 0
    assert not [line for line in server.lines if "Traceback" in line or " ERROR " in line]
