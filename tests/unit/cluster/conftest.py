"""What the tests of the pure parts share: a model host in the process, in the place of replicas elsewhere."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import NANO
from whisper_server.cluster.messages import Failure, ModelCard, WindowCall
from whisper_server.cluster.model_host import ModelHost
from whisper_server.cluster.remote_model import ReplicaLost
from whisper_server.core.config import Settings
from whisper_server.core.events import Events
from whisper_server.core.types import Decoded
from whisper_server.services.model_files.catalog import Catalog


class HostReplicas:
    """Replicas that are hosts in this process; what goes there and back is pickled."""

    streams = 0

    def __init__(self, *hosts: ModelHost) -> None:
        self.hosts = hosts
        self.calls: list[WindowCall] = []
        self.before: Callable[[int], None] = lambda _number: None  # is told the number of each call

    @property
    def slots(self) -> int:
        return sum(host.slots for host in self.hosts)

    async def decode(self, call: WindowCall) -> Decoded:
        number = len(self.calls)
        self.calls.append(call)
        self.before(number)
        host = self.hosts[number % len(self.hosts)]
        answer = pickle.loads(pickle.dumps(await host.decode(pickle.loads(pickle.dumps(call)))))
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

    async def describe(self, name: str) -> ModelCard:
        for host in self.hosts:
            card = await host.describe(name)
            if isinstance(card, Failure):
                raise card.error()
        return pickle.loads(pickle.dumps(card))


def lose(*numbers: int) -> Callable[[int], None]:
    """Lose the replica at the calls of these numbers."""

    def before(number: int) -> None:
        if number in numbers:
            raise ReplicaLost(f"call {number}")

    return before


@pytest.fixture
def nano_settings(nano_cache: Path) -> Settings:
    return Settings(_env_file=None, model=str(NANO), cache_dir=nano_cache, threads=1, decoder_processes=0)


@pytest.fixture
def replicas(nano_settings: Settings) -> Iterator[HostReplicas]:
    catalog = Catalog(nano_settings)
    hosts = [ModelHost(nano_settings, catalog, Events()) for _ in range(2)]
    yield HostReplicas(*hosts)
    for host in hosts:
        host.close(30.0)
