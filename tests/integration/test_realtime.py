"""Realtime sessions over real sockets: what is said in one is what an upload of it would say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import NANO, Sample, Server, StartServer, servers
from tests.support.audio_files import wav_bytes
from tests.support.realtime_client import heard, pcm16, session, turns_of
from whisper_server.api.ephemeral_keys import MAX_SESSION_BYTES

KEY = "sk-of-this-server"


@pytest.fixture(scope="module")
def nano_server(tmp_path_factory: pytest.TempPathFactory, nano_cache: Path) -> Iterator[Server]:
    """One server with the nano model for all that do not end it."""
    with servers(tmp_path_factory.mktemp("realtime")) as start:
        yield start(
            WHISPER_ENGINE="auto",
            WHISPER_MODEL=str(NANO),
            WHISPER_CACHE_DIR=str(nano_cache),
            WHISPER_OFFLINE="true",
            WHISPER_THREADS="1",
        )


def uploaded(server: Server, sample: Sample) -> str:
    reply = httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": sample.data}, timeout=60)
    text: str = reply.raise_for_status().json()["text"]
    return text


@pytest.mark.parametrize("name", ["en-plain-000.flac", "de-plain-018.flac"])
@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_a_committed_turn_says_what_an_upload_does(
    nano_server: Server, samples: dict[str, Sample], name: str, rate_hz: int
) -> None:
    with session(nano_server.url) as client:
        created = client.until("session.created")
        client.update(turn_detection=None, format={"type": "audio/pcm", "rate": rate_hz})
        client.append(pcm16(samples[name].data, rate_hz))
        client.send("input_audio_buffer.commit")
        completed = client.until(".completed")
    assert created["session"]["type"] == "transcription"
    assert completed["transcript"] == uploaded(nano_server, samples[name])
    assert completed["usage"]["seconds"] == pytest.approx(samples[name].duration_s, abs=0.05)
    deltas = [event["delta"] for event in client.seen if event["type"].endswith(".delta")]
    assert completed["transcript"].startswith("".join(deltas))
    kinds = client.kinds()
    assert kinds.index("input_audio_buffer.committed") < kinds.index("conversation.item.added")
    assert kinds.index("conversation.item.added") < kinds.index("conversation.item.done")


def test_one_append_of_any_size(nano_server: Server, speech: Sample) -> None:
    with session(nano_server.url, max_size=None) as client:
        client.update(turn_detection=None)
        data = pcm16(speech.data)
        client.append(data, len(data))
        client.send("input_audio_buffer.commit")
        assert client.until(".completed")["transcript"] == uploaded(nano_server, speech)


def test_turns_of_one_session_follow_one_another(nano_server: Server, samples: dict[str, Sample]) -> None:
    names = ["en-plain-000.flac", "en-plain-001.flac", "en-plain-002.flac"]
    with session(nano_server.url) as client:
        client.update(turn_detection=None)
        for name in names:
            client.append(pcm16(samples[name].data))
            client.send("input_audio_buffer.commit")
        said = [client.until(".completed") for _ in names]
    assert [event["transcript"] for event in said] == [uploaded(nano_server, samples[name]) for name in names]
    committed = [event for event in client.seen if event["type"].endswith(".committed")]
    assert [event["item_id"] for event in said] == [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [
        None, *(event["item_id"] for event in committed[:-1])
    ]  # fmt: skip


def test_a_session_says_what_uploads_of_its_turns_do(nano_server: Server, samples: dict[str, Sample]) -> None:
    rate_hz, pause = 16_000, bytes(2 * 16_000)
    names = ["en-plain-000.flac", "de-plain-018.flac", "en-plain-002.flac"]
    said = b"".join(pcm16(samples[name].data, rate_hz) + pause for name in names)
    with session(nano_server.url) as client:
        texts = heard(client, said, rate_hz)
    words = " ".join(texts).split()
    assert words == " ".join(samples[name].text for name in names).split()
    for text, turn in zip(texts, turns_of(said), strict=True):
        files = {"file": wav_bytes(turn, rate=rate_hz)}
        reply = httpx.post(f"{nano_server.url}/v1/audio/transcriptions", files=files, timeout=60)
        assert text == reply.raise_for_status().json()["text"]


def test_silence_has_an_empty_text(nano_server: Server) -> None:
    with session(nano_server.url) as client:
        client.update(turn_detection=None)
        client.append(bytes(48_000))
        client.send("input_audio_buffer.commit")
        assert client.until(".completed")["transcript"] == ""


@pytest.mark.parametrize(
    "text", ["no json", "[]", '"text"', "{" * 2_000, "\ud800".encode("utf-8", "replace").decode()]
)
def test_what_is_no_event_is_an_error_and_the_session_goes_on(nano_server: Server, text: str) -> None:
    with session(nano_server.url) as client:
        client.socket.send(text)
        assert client.until("error")["error"]["type"] == "invalid_request_error"
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")


@pytest.mark.parametrize("audio", [None, 7, "%%%", "AAA=A", ["AAAA"]])
def test_sound_that_is_no_base64_is_an_error(nano_server: Server, audio: object) -> None:
    with session(nano_server.url) as client:
        client.send("input_audio_buffer.append", audio=audio, event_id="mine")
        assert client.until("error")["error"]["event_id"] == "mine"


def refusal(server: Server, path: str = "/v1/realtime", **options: Any) -> Any:
    with pytest.raises(InvalidStatus) as caught, session(server.url, path, **options):
        pass
    return caught.value.response


def test_a_wrong_key_is_refused_before_the_handshake(start_server: StartServer) -> None:
    server = start_server(WHISPER_API_KEY=KEY)
    for options in ({}, {"additional_headers": {"Authorization": "Bearer other"}}):
        response = refusal(server, **options)
        assert response.status_code == 401
        assert b'"invalid_api_key"' in response.body
    with session(server.url, additional_headers={"Authorization": f"Bearer {KEY}"}) as client:
        client.until("session.created")


def test_the_key_may_be_a_subprotocol_as_web_pages_send_it(start_server: StartServer) -> None:
    server = start_server(WHISPER_API_KEY=KEY)
    secret = httpx.post(
        f"{server.url}/v1/realtime/client_secrets",
        json={"session": {"type": "transcription"}},
        headers={"Authorization": f"Bearer {KEY}"},
    ).json()
    for key in (KEY, secret["value"]):
        offered = ["realtime", f"openai-insecure-api-key.{key}"]
        with session(server.url, subprotocols=offered) as client:
            client.until("session.created")
            assert client.socket.subprotocol == "realtime"
    for key in ("other", "ek_1.2.3", secret["value"][:-1] + "x"):
        offered = ["realtime", f"openai-insecure-api-key.{key}"]
        assert refusal(server, subprotocols=offered).status_code == 401
    # It opens sessions, and nothing else.
    only = {"Authorization": f"Bearer {secret['value']}"}
    assert httpx.get(f"{server.url}/v1/models", headers=only).status_code == 401


def new_secret(server: Server, path: str = "client_secrets", **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{server.url}/v1/realtime/{path}", json=body, headers=headers)


def test_a_session_begins_as_its_key_says(start_server: StartServer) -> None:
    server = start_server(WHISPER_API_KEY=KEY)
    sound = {
        "format": {"type": "audio/pcmu"},
        "transcription": {"model": "whisper-1", "language": "de", "prompt": "Gr\u00fc\u00dfe"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 700},
    }
    wanted = {"type": "transcription", "audio": {"input": sound}, "include": ["item.x"]}
    made = new_secret(server, session=wanted).json()
    with session(server.url, subprotocols=["realtime", f"openai-insecure-api-key.{made['value']}"]) as client:
        begun = client.until("session.created")["session"]
    assert begun["audio"] == made["session"]["audio"]
    assert begun["include"] == ["item.x"]
    heard = begun["audio"]["input"]
    assert heard["format"] == {"type": "audio/pcmu", "rate": 8000}
    assert heard["transcription"] == sound["transcription"]
    assert heard["turn_detection"]["silence_duration_ms"] == 700

    flat = {
        "input_audio_format": "g711_alaw",
        "turn_detection": None,
        "input_audio_transcription": {"language": "de"},
    }
    older = new_secret(server, "transcription_sessions", **flat).json()
    assert older["input_audio_format"] == "g711_alaw"
    bearer = {"Authorization": f"Bearer {older['client_secret']['value']}"}
    with session(server.url, "/v1/realtime?model=whisper-1", additional_headers=bearer) as client:
        heard = client.until("session.created")["session"]["audio"]["input"]
    assert heard["format"]["type"] == "audio/pcma"
    assert heard["turn_detection"] is None
    assert heard["transcription"] == {"model": "whisper-1", "language": "de"}


def test_a_key_with_as_much_as_it_holds_opens_a_session(start_server: StartServer) -> None:
    server = start_server(WHISPER_API_KEY=KEY)
    prompt = "a" * (MAX_SESSION_BYTES - 300)
    made = new_secret(server, session={"audio": {"input": {"transcription": {"prompt": prompt}}}}).json()
    for options in (
        {"subprotocols": ["realtime", f"openai-insecure-api-key.{made['value']}"]},
        {"additional_headers": {"Authorization": f"Bearer {made['value']}"}},
    ):
        with session(server.url, **options) as client:
            begun = client.until("session.created")["session"]
        assert begun["audio"]["input"]["transcription"]["prompt"] == prompt


def test_a_key_ends_when_it_is_asked_to(start_server: StartServer) -> None:
    server = start_server(WHISPER_API_KEY=KEY)
    made = new_secret(server, expires_after={"anchor": "created_at", "seconds": 7200}).json()
    assert 7100 < made["expires_at"] - time.time() < 7300


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (
            {"session": {"audio": {"input": {"format": {"type": "mp3"}}}}},
            400,
            "session.audio.input.format.type",
        ),
        ({"session": {"audio": {"input": {"transcription": {"model": "nobody-has-this"}}}}}, 404, "model"),
        ({"session": {"audio": {"input": {"transcription": {"language": "xx"}}}}}, 400, "language"),
        ({"session": {"audio": {"input": {"transcription": {"prompt": "a" * 5000}}}}}, 400, "session"),
        ({"session": {"audio": {"input": {"noise_reduction": {"a": "b" * 70_000}}}}}, 400, None),
        ({"session": []}, 400, "session"),
        ({"expires_after": {"seconds": 5}}, 400, "expires_after"),
    ],
)
def test_what_a_key_cannot_say_is_refused_when_it_is_made(
    nano_server: Server, body: dict[str, Any], status: int, param: str | None
) -> None:
    reply = new_secret(nano_server, **body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["param"] == param


def test_refusals_are_those_of_http(nano_server: Server) -> None:
    assert refusal(nano_server, "/v1/elsewhere").status_code == 404
    unknown = refusal(nano_server, "/v1/realtime?model=nobody-has-this")
    assert unknown.status_code == 404
    assert b'"model_not_found"' in unknown.body
    strange = refusal(nano_server, origin="https://evil.example")
    assert strange.status_code == 403
    assert b"ALLOWED_ORIGINS" in strange.body


def test_a_full_server_says_so_and_when_to_come_back(start_server: StartServer) -> None:
    server = start_server(WHISPER_QUEUE_REQUESTS="1")
    with session(server.url) as client:
        client.until("session.created")
        response = refusal(server)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        metrics = httpx.get(f"{server.url}/metrics").text
        assert "whisper_realtime_sessions 1.0" in metrics
    deadline = time.monotonic() + 60
    while "whisper_realtime_sessions 0.0" not in httpx.get(f"{server.url}/metrics").text:
        assert time.monotonic() < deadline
    with session(server.url) as client:
        client.until("session.created")


def test_a_server_that_ends_finishes_what_was_said(
    start_server: StartServer, nano_cache: Path, speech: Sample
) -> None:
    server = start_server(
        WHISPER_ENGINE="auto",
        WHISPER_MODEL=str(NANO),
        WHISPER_CACHE_DIR=str(nano_cache),
        WHISPER_OFFLINE="true",
    )
    expected = uploaded(server, speech)
    with session(server.url) as client:
        client.update(turn_detection=None)
        client.append(pcm16(speech.data))
        client.until(".delta")  # the turn has begun
        server.process.terminate()
        assert client.until(".completed")["transcript"] == expected
        with pytest.raises(ConnectionClosed):
            client.until("nothing more")
        assert client.socket.close_code == 1001
    assert server.process.wait(timeout=60) == 0


def test_a_client_that_is_silent_for_too_long_is_let_go(start_server: StartServer) -> None:
    server = start_server(WHISPER_REALTIME_IDLE_S="0.2")
    with session(server.url) as client:
        with pytest.raises(ConnectionClosed):
            client.until("nothing")
        assert client.socket.close_code == 1001


def test_a_turn_that_cannot_be_decoded_says_so_and_the_session_goes_on(
    start_server: StartServer, tmp_path: Path, speech: Sample
) -> None:
    empty = tmp_path / "empty-model"
    empty.mkdir()
    server = start_server(
        WHISPER_ENGINE="ctranslate2", WHISPER_MODELS=f"broken={empty}", WHISPER_OFFLINE="true"
    )
    with session(server.url) as client:
        client.update(turn_detection=None, transcription={"model": "broken"})
        for _ in range(2):
            client.append(pcm16(speech.data))
            client.send("input_audio_buffer.commit")
            assert client.until(".failed")["error"]["code"] == "model_unavailable"
