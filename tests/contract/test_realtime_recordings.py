"""What eight realtime clients send, event by event, as it was recorded; the sound is a clip of ours.

`realtime_recordings.json` has path, key and subprotocols of each client's handshake, then what it sends; an
"append" stands for the whole clip in pieces of so many bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Sample, Server
from tests.support.realtime_client import pcm16, session

RECORDINGS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("realtime_recordings.json").read_text(encoding="utf-8")
)
SILENCE_S = 10  # more than any turn detection waits for


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording["client"])
def test_a_client_gets_its_text_and_no_error(nano: Server, speech: Sample, recording: dict[str, Any]) -> None:
    options: dict[str, Any] = {}
    if key := recording.get("authorization"):
        options["additional_headers"] = {"Authorization": key}
    if offered := recording.get("subprotocols"):
        options["subprotocols"] = offered.split(", ")
    clip = pcm16(speech.data)
    with session(nano.url, recording["path"], **options) as client:
        if offered:
            assert client.socket.subprotocol == "realtime"
        is_sounding = False
        for step in recording["steps"]:
            if step["type"] == "append":
                is_sounding = True
                client.append(clip, step["bytes"])
            else:
                client.send(step["type"], **{name: step[name] for name in step if name != "type"})
        kinds = [step["type"] for step in recording["steps"]]
        if is_sounding and "input_audio_buffer.commit" not in kinds:
            if "server_vad" not in json.dumps(client.until("session.updated")):
                client.send("input_audio_buffer.commit")
            client.append(bytes(SILENCE_S * 48_000))
        if is_sounding:
            # Detection may end a turn in each of the clip's pauses; what the toy model makes of single words
            # is not always what it makes of three.
            said: list[str] = []
            while len(said) < len(speech.text.split()):
                said += client.until(".completed")["transcript"].split()
            assert "input_audio_buffer.speech_started" in client.kinds() or " ".join(said) == speech.text
        if "input_audio_buffer.clear" in kinds:
            client.send("input_audio_buffer.clear")
            client.until("input_audio_buffer.cleared")
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
    assert client.seen[0]["type"] == "session.created"
    errors = [event["error"] for event in client.seen if event["type"] == "error"]
    assert all(error["code"] == "input_audio_buffer_commit_empty" for error in errors)
    # Only who commits an empty buffer on purpose hears of it, with the name of its own event.
    assert {error["event_id"] for error in errors} <= {step.get("event_id") for step in recording["steps"]}


@pytest.mark.parametrize("path", ["client_secrets", "transcription_sessions"])
def test_short_lived_keys_have_the_shapes_that_clients_read(nano: Server, path: str) -> None:
    reply = httpx.post(f"{nano.url}/v1/realtime/{path}", json={"session": {"type": "transcription"}}).json()
    secret = reply if path == "client_secrets" else reply["client_secret"]
    assert secret["value"].startswith("ek_")
    assert secret["expires_at"] > 1_700_000_000
