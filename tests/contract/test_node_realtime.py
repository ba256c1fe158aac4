"""Realtime sessions of JavaScript clients, over TLS where they want it; node/realtime.mjs calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NANO, Sample, Server, StartServer
from tests.contract.clients import KEY
from tests.support.realtime_client import pcm16
from tests.support.tls_front import TlsFront, tls_front

HERE = Path(__file__).parent / "node"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
    pytest.mark.skipif(
        not (HERE / "node_modules").is_dir(), reason="run npm ci in tests/contract/node to test these clients"
    ),
]


@pytest.fixture(scope="module")
def guarded(start_contract_server: StartServer, nano_cache: Path) -> Server:
    """A server with the nano model that asks for a key."""
    return start_contract_server(
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
        WHISPER_OFFLINE="true",
        WHISPER_API_KEY=KEY,
    )


@pytest.fixture(scope="module")
def front(guarded: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsFront]:
    with tls_front(guarded.url, tmp_path_factory.mktemp("tls")) as opened:
        yield opened


@pytest.fixture
def outcome(guarded: Server, front: TlsFront, speech: Sample, tmp_path: Path) -> Any:
    """Make one call, and return what came of it."""
    pcm = tmp_path / "speech.pcm"
    pcm.write_bytes(pcm16(speech.data))
    about = {
        "baseURL": f"{guarded.url}/v1",
        "tlsURL": f"{front.url}/v1",
        "apiKey": KEY,
        "model": "whisper-1",
        "pcm": str(pcm),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
    environment["NODE_EXTRA_CA_CERTS"] = str(front.certificate)

    def call(name: str) -> dict[str, Any]:
        assert NODE is not None
        arguments = json.dumps({**about, "calls": [name]})
        done = subprocess.run(
            [NODE, "--experimental-websocket", "realtime.mjs", arguments],
            cwd=HERE, env=environment, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)[name]
        return found

    return call


@pytest.mark.parametrize("call", ["ws", "ws_intent", "websocket", "websocket_secret"])
def test_openai_finishes_a_turn(outcome: Any, speech: Sample, call: str) -> None:
    said = outcome(call)
    assert "error" not in said, said
    turn = said["value"]
    assert turn["types"][:2] == ["session.created", "session.updated"]
    assert turn["transcript"] == speech.text
    assert turn["transcript"].startswith(turn["shown"])
    assert turn["usage"]["seconds"] == pytest.approx(speech.duration_s, abs=0.05)
    assert "error" not in turn["types"]


def test_openai_sees_that_its_key_is_wrong(outcome: Any) -> None:
    assert "401" in outcome("wrong_key")["error"]


@pytest.mark.parametrize("call", ["ai_live", "ai_whisper"])
def test_the_ai_sdk_streams_sound(outcome: Any, speech: Sample, call: str) -> None:
    said = outcome(call)
    assert "error" not in said, said
    assert said["value"]["text"] == speech.text
    assert "transcript-delta" in said["value"]["types"]
