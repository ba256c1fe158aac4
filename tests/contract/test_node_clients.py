"""JavaScript clients, unmodified: the official one and the AI SDK. node/clients.mjs calls, this judges."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SAMPLES, Sample, Server
from tests.contract.clients import NANO_NAME, wav_of
from tests.contract.document import needs_chat, needs_stream

HERE = Path(__file__).parent / "node"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (HERE / "node_modules").is_dir(), reason="run npm ci in tests/contract/node to test these clients"
    ),
]


class Node:
    """Runs calls in one process and hands out what came of each."""

    def __init__(self, server: Server, speech: Sample, folder: Path) -> None:
        self._wav = folder / "speech.wav"
        self._wav.write_bytes(wav_of(speech))
        self._about = {
            "baseURL": f"{server.url}/v1",
            "model": NANO_NAME,
            "file": str(SAMPLES / speech.name),
            "wav": str(self._wav),
        }

    def __call__(self, *calls: str) -> dict[str, Any]:
        assert NODE is not None
        done = subprocess.run(
            [NODE, "clients.mjs", json.dumps({**self._about, "calls": calls})],
            cwd=HERE,
            env={name: value for name, value in os.environ.items() if not name.startswith("NODE_")},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        outcomes: dict[str, Any] = json.loads(done.stdout)
        return outcomes

    def values(self, *calls: str) -> list[Any]:
        """Run calls that all succeed."""
        outcomes = self(*calls)
        failed = {name: outcome["error"] for name, outcome in outcomes.items() if "error" in outcome}
        assert not failed
        return [outcomes[name]["value"] for name in calls]


@pytest.fixture
def node(nano: Server, speech: Sample, tmp_path: Path) -> Node:
    return Node(nano, speech, tmp_path)


def test_openai_transcribes(node: Node, speech: Sample) -> None:
    plain, upload, text, fields = node.values("openai_json", "openai_upload", "openai_text", "openai_fields")
    assert plain == {"text": speech.text, "usage": {"type": "duration", "seconds": 3}}
    assert upload == plain == fields
    assert text == speech.text + "\n"


def test_openai_gets_subtitles_and_words(node: Node, speech: Sample) -> None:
    srt, vtt, verbose = node.values("openai_srt", "openai_vtt", "openai_words")
    assert srt.startswith("1\n00:00:0")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert (verbose["text"], verbose["language"]) == (speech.text, "english")
    assert [word["word"] for word in verbose["words"]] == speech.text.split()
    assert len(verbose["segments"][0]) == 11  # OpenAI's ten, and `language`


def test_openai_lists_models(node: Node) -> None:
    (names,) = node.values("openai_models")
    assert NANO_NAME in names


def test_openai_sees_errors(node: Node) -> None:
    outcomes = node("openai_unknown_model", "openai_bad_audio")
    missing, unreadable = (outcome["error"] for outcome in outcomes.values())
    assert (missing["kind"], missing["status"]) == ("NotFoundError", 404)
    assert (missing["code"], missing["param"]) == ("model_not_found", "model")
    assert missing["type"] == "invalid_request_error"
    assert missing["requestID"]
    assert (unreadable["kind"], unreadable["status"]) == ("BadRequestError", 400)
    assert unreadable["param"] == "file"
    assert [outcome["requests"] for outcome in outcomes.values()] == [1, 1]


@needs_stream
def test_openai_streams(node: Node, speech: Sample) -> None:
    (events,) = node.values("openai_stream")
    assert [event["type"] for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1]["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"] == speech.text


@needs_stream
def test_openai_sees_errors_before_a_stream(node: Node) -> None:
    error = node("openai_stream_error")["openai_stream_error"]["error"]
    assert (error["kind"], error["status"]) == ("BadRequestError", 400)


@needs_chat
def test_openai_chats(node: Node, speech: Sample) -> None:
    plain, chunks = node.values("openai_chat", "openai_chat_stream")
    assert plain["choices"][0]["message"]["content"] == speech.text
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == speech.text
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_ai_sdk_transcribes(node: Node, speech: Sample) -> None:
    plain, verbose = node.values("ai_transcribe", "ai_verbose")
    assert (plain["text"], plain["durationInSeconds"]) == (speech.text, 3)
    assert (verbose["text"], verbose["language"]) == (speech.text, "en")
    assert verbose["durationInSeconds"] == pytest.approx(speech.duration_s, abs=0.01)
    assert "".join(segment["text"] for segment in verbose["segments"]).strip() == speech.text
    assert verbose["segments"][0]["startSecond"] < verbose["segments"][-1]["endSecond"]


def test_groq_transcribes(node: Node, speech: Sample) -> None:
    plain, sdk = node.values("groq_json", "ai_groq")
    assert plain["text"] == sdk["text"] == speech.text
    assert plain["x_groq"]["id"].startswith("req_")


def test_the_ai_sdk_sees_errors(node: Node) -> None:
    error = node("ai_unknown_model")["ai_unknown_model"]["error"]
    assert error["status"] == 404
    assert json.loads(error["responseBody"])["error"]["code"] == "model_not_found"


@needs_chat
def test_the_ai_sdk_chats(node: Node, speech: Sample) -> None:
    plain, streamed = node.values("ai_chat", "ai_chat_stream")
    assert (plain.strip(), streamed.strip()) == (speech.text, speech.text)
