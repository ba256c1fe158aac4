"""Hostile inputs against real processes; `pytest -m attack` runs them.

One file for each thing that is attacked. A finding has its smallest test in the normal suite; what takes
longer, or many inputs of one kind, is here.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.conftest import NANO, Sample, Server, StartServer
from tests.support.http_requests import URL, form
from tests.support.waiting import HANG_S

HERE = Path(__file__).parent
LIMIT_S = HANG_S


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.attack)


@pytest.fixture
def nano_server(start_server: StartServer, nano_cache: Path) -> Server:
    """A real server with the nano model."""
    return start_server(
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
    )


def check_serves(server: Server, speech: Sample, **fields: str) -> None:
    """Check that a good request gets its text, and that nothing went wrong unnoticed."""
    reply = httpx.post(f"{server.url}{URL}", timeout=LIMIT_S, **form(speech.data, **fields))
    assert reply.status_code == 200, reply.text
    assert reply.json()["text"] == speech.text
    assert httpx.get(f"{server.url}/health", timeout=LIMIT_S).status_code == 200
    assert not [line for line in server.lines if "Traceback" in line], server.lines
