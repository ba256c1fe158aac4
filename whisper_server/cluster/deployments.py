"""The application as Ray Serve runs it: fronts, model replicas, and one board that knows the whole.

    client -> proxy (retry.py) -> Front -> windows -> Models, and a deployment for each group of models
                                    `---- reports ----> Board <---- reports ----'

`build` is the `import_path` of a Serve config file. Each process reads the settings of its own machine, and
over them those of the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from whisper_server.api.server.run import check_exposure
from whisper_server.cluster.arguments import (
    BOARD,
    DEFAULT_GROUP,
    FRONT,
    ClusterArgs,
    groups_of,
    loaded_at_start,
    parsed,
    settings_of,
    settings_of_front,
)
from whisper_server.cluster.board import REPORT_S, Board, FrontReport, ReplicaReport, Report, Totals
from whisper_server.cluster.handles import ReplicaHandles
from whisper_server.cluster.messages import Failure, ModelCard, WindowCall
from whisper_server.cluster.model_host import ModelHost
from whisper_server.cluster.remote_model import RemoteModel
from whisper_server.cluster.throughput import ClusterThroughput
from whisper_server.core.logging import LineFormatter
from whisper_server.core.merged_metrics import families_of
from whisper_server.core.metrics import Metrics
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.types import Decoded, ModelSource
from whisper_server.services.container import RemoteModels
from whisper_server.services.model_files.catalog import Catalog

log = logging.getLogger(__name__)

BOARD_TIMEOUT_S = 5.0  # for an answer of the board; while there is none, calls to it would wait
CLOSE_TIMEOUT_S = 5.0  # of a replica's models; Serve has let the windows end before
FRONT_ONGOING = 1000  # requests that Serve hands to one front; it refuses by its own limits long before
MODEL_ONGOING = 256  # windows that Serve hands to one replica, about 1 MB each; they are ordered there

_UNANSWERED = (ray.exceptions.RayError, RayServeException, TimeoutError)


def build(args: dict[str, Any]) -> Any:
    """Return the application that `args` of a Serve config file describe.

    Raises:
        ConfigError: they say something wrong.
    """
    checked = parsed(args)
    board = _deployment(BoardService, BOARD, max_ongoing=1000, cpus=0).bind()
    replicas = {
        name: _deployment(ModelReplica, name, max_ongoing=MODEL_ONGOING, cpus=1).bind(checked, name, board)
        for name in (DEFAULT_GROUP, *(group.deployment for group in checked.models))
    }
    front = serve.ingress()(FrontService)
    return _deployment(front, FRONT, max_ongoing=FRONT_ONGOING, cpus=1).bind(checked, replicas, board)


def _deployment(kind: Any, name: str, *, max_ongoing: int, cpus: float) -> Any:
    made = serve.deployment(kind, name=name)
    return made.options(
        max_ongoing_requests=max_ongoing,
        ray_actor_options={"num_cpus": cpus},
        logging_config={"enable_access_log": False},  # of requests, with their paths, and of windows
    )


class BoardService:
    """The board, in a process of its own; one that takes its place starts empty."""

    def __init__(self) -> None:
        _log_to_stderr("INFO")
        self._board = Board()

    async def report(self, report: Report) -> Totals:
        """Take a report; return the sums."""
        return self._board.report(report)

    async def drain(self) -> None:
        """Have the fronts take no more requests."""
        self._board.drain()

    async def totals(self) -> Totals:
        """Return the sums."""
        return self._board.totals()

    async def page(self) -> tuple[bytes, str]:
        """Return the metrics of all processes."""
        return self._board.page()


class ModelReplica:
    """One process with models in memory."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: ClusterArgs, group: str, board: Any
    ) -> None:
        """Load what this group is for; Serve sends windows once that is done.

        Raises:
            ConfigError: a setting of this machine is wrong.
            WhisperServerError: a model of the group cannot be loaded.
        """
        settings = settings_of(args.settings, threads=_assigned_cpus())
        _log_to_stderr(settings.log_level)
        self._metrics = Metrics()
        self._group = group
        catalog = Catalog(settings)
        self._host = ModelHost(settings, catalog, self._metrics)
        self._member = _Member(board, self._report)
        self._mark: Callable[[str], Awaitable[str]] | None = None
        if args.multiplexed and group == DEFAULT_GROUP:
            self._mark = serve.multiplexed(_marked, max_num_models_per_replica=settings.max_models)
        for name in loaded_at_start(args, group, settings, catalog):
            if isinstance(card := await self._host.describe(name), Failure):
                raise card.error()
        await self._member.start()

    async def describe(self, name: str) -> ModelCard | Failure:
        """Load a model where it is not there yet, and say what it is."""
        if self._mark is not None:
            await self._mark(name)
        return await self._host.describe(name)

    async def decode(self, call: WindowCall) -> Decoded | Failure:
        """Decode one window; cancelled, it leaves the device."""
        if self._mark is not None:
            await self._mark(call.model)
        return await self._host.decode(call)

    def _report(self) -> Report:
        return ReplicaReport(
            self._member.name, self._group, self._host.slots, families_of(self._metrics.registry)
        )

    async def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # its constructor failed
            self._member.stop()
            await asyncio.to_thread(self._host.close, CLOSE_TIMEOUT_S)


async def _marked(model: str) -> str:
    """Say that this replica has a model: Serve prefers it from now on. What is in memory the host decides."""
    return model


class ClusterMetrics(Metrics):
    """The counters of one front; its page is that of the whole cluster."""

    def __init__(self, member: _Member) -> None:
        super().__init__()
        self._member = member

    async def page(self) -> tuple[bytes, str]:
        """Return the board's page, with the newest counts of this front; its own where there is no board."""
        return await self._member.page() or self.exposition()


class FrontService:
    """One process with the API: the application of a single server, whose models are elsewhere."""

    def __init__(self, args: ClusterArgs, replicas: Mapping[str, Any], board: Any) -> None:
        """Take the handles of all groups of models.

        Raises:
            ConfigError: a setting of this machine is wrong, or everybody could use this front.
        """
        self._settings = settings_of_front(args)
        _log_to_stderr(self._settings.log_level)
        check_exposure(self._settings)  # the key may be missing on this machine alone
        self._is_multiplexed = args.multiplexed
        self._groups = groups_of(args, Catalog(self._settings))
        self._handles = replicas
        self._member = _Member(board, self._report)
        self._metrics = ClusterMetrics(self._member)
        self._throughput = ClusterThroughput()
        self._shutdown = Shutdown()
        self._models: list[tuple[str, RemoteModel]] = []  # with the deployments that they are on
        self._app: Any = None  # a FastAPI, once Serve has asked for it

    async def __serve_build_asgi_app__(self) -> Any:
        """Make the application; Serve runs its lifespan."""
        from whisper_server.api.app import create_app  # noqa: PLC0415  (Serve unpickles the class elsewhere)

        remote = RemoteModels(self._load, self._throughput, self._metrics)
        self._app = create_app(self._settings, shutdown=self._shutdown, remote=remote)
        await self._member.start()
        return self._app

    def _load(self, source: ModelSource) -> RemoteModel:
        """Have a model loaded on a replica; blocks."""
        group = self._groups.get(source.name, DEFAULT_GROUP)
        is_marked = self._is_multiplexed and group == DEFAULT_GROUP
        replicas = ReplicaHandles(
            self._handles[group], group, lambda: self._member.totals, source.name if is_marked else None
        )
        model = RemoteModel(source.name, replicas, replicas.describe(source.name), self._shutdown)
        self._models = [*(pair for pair in self._models if not pair[1].is_closed), (group, model)]
        return model

    def _report(self) -> Report:
        services = getattr(self._app.state, "services", None)  # there once the lifespan has begun
        admitted = services.admission.state() if services is not None else None
        steps_left = admitted.steps if admitted else 0
        self._throughput.update(self._member.totals, steps_left)
        if self._member.totals.is_draining and services is not None:
            self._app.state.drain()
        streams: dict[str, int] = {}
        for group, model in self._models:
            streams[group] = streams.get(group, 0) + model.scheduler.n_sharing
        return FrontReport(
            self._member.name,
            steps_left,
            self._throughput.steps_done,
            streams,
            admitted.requests if admitted else 0,
            families_of(self._metrics.registry),
        )


class _Member:
    """One process in the eyes of the board: it reports about once a second, and keeps the newest sums."""

    def __init__(self, board: Any, report: Callable[[], Report]) -> None:
        self.name = uuid.uuid4().hex
        self.totals = Totals()
        self._board = board
        self._report = report
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to report."""
        self._task = asyncio.create_task(self._go_on())

    def stop(self) -> None:
        """Report no more."""
        if self._task is not None:
            self._task.cancel()

    async def page(self) -> tuple[bytes, str] | None:
        """Report now, and return the page of all processes; None where the board does not answer."""
        try:
            async with asyncio.timeout(BOARD_TIMEOUT_S):
                await self._tell()
                page: tuple[bytes, str] = await self._board.page.remote()
        except _UNANSWERED:
            log.warning("the cluster's metrics cannot be had; these are of one front", exc_info=True)
            return None
        return page

    async def _go_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(BOARD_TIMEOUT_S):
                    await self._tell()
            except _UNANSWERED:
                log.debug("the board does not answer", exc_info=True)
            await asyncio.sleep(REPORT_S)

    async def _tell(self) -> None:
        self.totals = await self._board.report.remote(self._report())


def _assigned_cpus() -> int:
    """Return how many whole CPUs Ray gives to this process, 0 where it has a part of one."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    return int(assigned.get("CPU", 0))


def _log_to_stderr(level: str) -> None:
    """Log to what Ray collects of this process."""
    ours = logging.getLogger("whisper_server")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(level)
