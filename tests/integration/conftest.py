"""What integration tests share: applications in the process, their clients, a stand-in for the model hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import NANO
from tests.support.in_process import MakeSettings, OpenClient, client_of
from tests.support.real_models import real_model
from tests.support.stand_in_hub import silent_port, stand_in
from whisper_server.core.config import Settings

__all__ = ["silent_port", "stand_in"]


@pytest.fixture
def settings(tmp_path: Path) -> MakeSettings:
    """Make settings with the fake engine, and without the process that decodes: it starts in 0.1 s."""
    quick = {"engine": "fake", "cache_dir": tmp_path / "cache", "decoder_processes": 0}

    def make(**fields: Any) -> Settings:
        return Settings(_env_file=None, **{**quick, **fields})

    return make


@pytest.fixture
def nano_settings(nano_cache: Path) -> Settings:
    """Settings with the nano model and the real engine."""
    return Settings(
        _env_file=None,
        model=str(NANO),
        cache_dir=nano_cache,
        offline=True,
        threads=1,
        decoder_processes=0,  # see `settings`
    )


@pytest.fixture
def open_client(settings: MakeSettings) -> OpenClient:
    """Open a client of an application with these settings, on the fake engine."""
    return lambda **fields: client_of(settings(**fields))


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with the fake engine."""
    async with open_client() as opened:
        yield opened


@pytest.fixture
async def nano_client(nano_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with the nano model."""
    async with client_of(nano_settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole run, so that real weights are converted once."""
    return tmp_path_factory.mktemp("real-cache")


@pytest.fixture
def base_settings(real_cache: Path) -> Settings:
    """Settings with OpenAI's base, for tests marked `real`."""
    return Settings(
        _env_file=None,
        models=[f"base={real_model('base')}"],
        model="base",
        cache_dir=real_cache,
        threads=2,
        decoder_processes=0,
    )
