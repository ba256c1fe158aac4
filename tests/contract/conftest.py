"""Real server processes for real clients: one with the nano model for the whole run, others as needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NANO, Server, StartServer, forget_settings, servers
from tests.contract.clients import KEY


@pytest.fixture(scope="session")
def start_contract_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start real servers that live until the end of the run."""
    with pytest.MonkeyPatch.context() as patch:
        forget_settings(patch)
        with servers(tmp_path_factory.mktemp("servers")) as start:
            yield start


@pytest.fixture(scope="session")
def nano(start_contract_server: StartServer, nano_cache: Path) -> Server:
    """A server with the nano model and the real engine."""
    return start_contract_server(
        "--model",
        str(NANO),
        "--threads",
        "1",
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
        WHISPER_OFFLINE="true",
    )


@pytest.fixture(scope="session")
def locked(start_contract_server: StartServer) -> Server:
    """A server that asks for a key, takes files of up to 1 MiB and has the fake engine."""
    return start_contract_server(WHISPER_API_KEY=KEY, MAX_AUDIO_FILE_SIZE_MB="1")


@pytest.fixture(autouse=True)
def _no_client_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep keys, addresses and proxies of whoever runs the tests away from the clients."""
    for name in [*os.environ]:
        if name.upper().startswith(("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "LLM_")):
            monkeypatch.delenv(name)
        if name.upper() in {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}:
            monkeypatch.delenv(name)
