"""A front's model, with hosts of models behind it: texts, lost replicas, cancellation, errors, draining."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import pytest

from tests.conftest import NANO_MODEL, Sample
from tests.support.long_audio import speak_for
from tests.unit.cluster.conftest import HostReplicas, lose
from whisper_server.cluster import remote_model
from whisper_server.cluster.messages import WindowCall
from whisper_server.cluster.remote_model import ATTEMPTS, PAUSES, RemoteModel, ReplicaUnreachable
from whisper_server.cluster.throughput import ClusterThroughput
from whisper_server.core.config import Settings
from whisper_server.core.errors import EngineFailure, InvalidRequest, ModelNotFound, ShuttingDown, Unavailable
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.types import Decoded, DecodeOptions, ModelSource, TranscribeParams, WindowJob
from whisper_server.services.container import RemoteModels, Services, open_services

pytestmark = pytest.mark.long


@pytest.fixture
async def services(nano_settings: Settings, replicas: HostReplicas) -> AsyncIterator[Services]:
    card = await replicas.describe("nano-whisper")

    def load(source: ModelSource) -> RemoteModel:
        return RemoteModel(source.name, replicas, card, Shutdown())

    remote = RemoteModels(load, ClusterThroughput())
    async with open_services(nano_settings, remote=remote) as opened:
        yield opened


@pytest.fixture
async def alone(nano_settings: Settings) -> AsyncIterator[Services]:
    async with open_services(nano_settings) as opened:
        yield opened


async def test_windows_are_spread_and_the_transcript_is_that_of_one_machine(
    services: Services, alone: Services, replicas: HostReplicas
) -> None:
    data = speak_for(100)
    params = TranscribeParams(NANO_MODEL, word_timestamps=True, logprobs=True, prompt="house")
    there = await services.transcriber.transcribe(data, params)
    here = await alone.transcriber.transcribe(data, params)
    assert there == here
    assert len(here.segments) > 4
    assert len(replicas.calls) >= 4
    assert len({call.stream for call in replicas.calls}) == 1


async def test_a_window_whose_replica_is_lost_is_decoded_by_another(
    services: Services, replicas: HostReplicas, speech: Sample
) -> None:
    replicas.before = lose(0, 1)
    found = await services.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL))
    assert found.text.strip() == speech.text
    assert len(replicas.calls) >= 3


async def test_a_window_that_ends_every_replica_is_given_up(
    services: Services, replicas: HostReplicas, speech: Sample
) -> None:
    replicas.before = lose(*range(100))
    with pytest.raises(EngineFailure, match="replicas were lost"):
        await services.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL))
    assert len(replicas.calls) == ATTEMPTS


async def test_a_replica_that_cannot_be_reached_is_asked_again(
    services: Services, replicas: HostReplicas, speech: Sample
) -> None:
    def before(number: int) -> None:
        if number < 2:
            raise ReplicaUnreachable

    replicas.before = before
    found = await services.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL))
    assert found.text.strip() == speech.text


async def test_replicas_that_stay_away_are_given_up(
    services: Services, replicas: HostReplicas, speech: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(_number: int) -> None:
        raise ReplicaUnreachable

    monkeypatch.setattr(remote_model, "FIRST_PAUSE_S", 0.0)
    replicas.before = before
    with pytest.raises(Unavailable, match="cannot be reached"):
        await services.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL))
    assert len(replicas.calls) == PAUSES


async def test_errors_of_a_replica_are_those_of_one_machine(services: Services, speech: Sample) -> None:
    with pytest.raises(InvalidRequest, match="none of the languages"):
        await services.transcriber.transcribe(
            speech.data, TranscribeParams(NANO_MODEL, languages=("xx", "yy"))
        )


async def test_a_model_that_no_replica_knows_is_an_error(replicas: HostReplicas) -> None:
    with pytest.raises(ModelNotFound):
        await replicas.describe("no-such-model")


class HeldReplicas(HostReplicas):
    """Replicas that do not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.cancelled = 0

    async def decode(self, call: WindowCall) -> Decoded:
        self.calls.append(call)
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError


async def test_a_request_that_is_cancelled_takes_its_windows_along(
    nano_settings: Settings, replicas: HostReplicas, speech: Sample
) -> None:
    held = HeldReplicas()
    card = await replicas.describe("nano-whisper")
    model = RemoteModel("nano-whisper", held, card, Shutdown())
    remote = RemoteModels(lambda _source: model, ClusterThroughput())
    async with open_services(nano_settings, remote=remote) as opened:
        task = asyncio.create_task(opened.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL)))
        await held.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert held.cancelled == len(held.calls) == 1


async def test_the_host_gives_a_window_up_with_its_call(
    services: Services, replicas: HostReplicas, speech: Sample
) -> None:
    await services.transcriber.transcribe(speech.data, TranscribeParams(NANO_MODEL))
    host, call = replicas.hosts[0], replicas.calls[0]
    calls = [asyncio.create_task(host.decode(replace(call, stream=str(number)))) for number in range(8)]
    await asyncio.sleep(0)
    for task in calls:
        task.cancel()
    await asyncio.wait(calls)
    assert all(task.cancelled() for task in calls)
    assert host.n_streams == 0
    assert isinstance(await host.decode(call), Decoded)  # and it goes on


async def test_priorities_and_live_streams_travel(services: Services, replicas: HostReplicas) -> None:
    async with services.models.lease(NANO_MODEL) as model:
        assert isinstance(model, RemoteModel)
        with model.scheduler.open_stream("background") as stream:
            assert stream.ahead >= 1
        with model.scheduler.open_stream("interactive", is_live=True) as live:
            model.drain()
            model.scheduler.check_open(live)
            with pytest.raises(ShuttingDown):
                model.scheduler.open_stream()


async def test_windows_under_way_follow_the_replicas_there_are(replicas: HostReplicas) -> None:
    card = await replicas.describe("nano-whisper")
    slots = card.info.max_batch * card.info.workers
    model = RemoteModel("nano-whisper", replicas, card, Shutdown())
    with model.scheduler.open_stream() as one:
        assert one.ahead == 2 * 2 * slots
        replicas.streams = 4  # of other fronts, too
        assert one.ahead == slots
    replicas.hosts = ()
    assert model.is_degraded


async def test_requests_of_one_window_take_no_share_from_a_long_file(replicas: HostReplicas) -> None:
    held = HeldReplicas()
    card = await replicas.describe("nano-whisper")
    model = RemoteModel("nano-whisper", held, card, Shutdown())
    window, options = cast("WindowJob", None), DecodeOptions()  # no replica looks at them
    with contextlib.ExitStack() as opened:
        streams = [opened.enter_context(model.scheduler.open_stream()) for _ in range(6)]
        whole = streams[0].ahead
        for each in streams:
            each.submit(window, options)
        assert {each.ahead for each in streams} == {whole}
        for each in streams[:2]:
            each.submit(window, options)
        assert model.scheduler.n_sharing == 2
        assert {each.ahead for each in streams} == {math.ceil(whole / 2)}
    assert model.scheduler.n_sharing == 0
