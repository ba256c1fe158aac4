"""A cluster as a discrete-event model: fronts, a network and model replicas on a clock of their own.

The rules are the code's: `RemoteScheduler.ahead` says how many windows a request has under way, the `Board`
what fronts know of the cluster and how late, `FairQueue` with the scheduler's weights which window a replica
takes next. Modelled is what Ray Serve and the machines do: a window goes to the less busy of two replicas
drawn by chance (Serve's router), windows of one front leave over its link one after the other, and a core of
a front and a replica take a given time for each. `experiments/cluster_simulation.md` lists what is left out.
"""

from __future__ import annotations

import heapq
import itertools
import math
import pickle
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from whisper_server.cluster.arguments import DEFAULT_GROUP
from whisper_server.cluster.board import REPORT_S, SILENT_S, Board, FrontReport, ReplicaReport, Totals
from whisper_server.cluster.messages import ModelCard, WindowCall
from whisper_server.cluster.remote_model import RemoteScheduler, Replicas
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.types import (
    VOICE_FRAME_S,
    WINDOW_FRAMES,
    WINDOW_S,
    DecodeOptions,
    Placed,
    Priority,
    Window,
    WindowJob,
)
from whisper_server.services.engines.base import EngineInfo
from whisper_server.services.scheduling.fair_queue import FairQueue, Flow
from whisper_server.services.scheduling.scheduler import WEIGHTS

# Of a replica on one core: one window at a time.
INFO = EngineInfo("model", "cpu", "int8", 80, is_multilingual=True, max_batch=1, workers=1, memory_bytes=0)


def window_bytes(n_mels: int = INFO.n_mels) -> int:
    """Return the size of a full window on its way, as pickle writes it."""
    voice = (0.5,) * round(WINDOW_S / VOICE_FRAME_S)
    mel = np.zeros((n_mels, WINDOW_FRAMES), np.float32)
    window = Window(mel, WINDOW_S, (Placed(0.0, 0.0, WINDOW_S),), voice)
    call = WindowCall("model", "0" * 32, "normal", False, WindowJob(window, "en"), DecodeOptions())
    return len(pickle.dumps(call, protocol=5))


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster, and how long its parts take."""

    replicas: int
    fronts: int
    service_s: float  # of a replica for a window of a long file, on average
    clip_service_s: float  # for the window of a clip
    spread: float = 0.0  # of the first: deviation over average; 1: exponential, 0: always the same
    clip_spread: float = 0.0  # of the second
    front_s: float = 0.0  # of one core of a front for a window: audio, voice detection, spectrogram, sending
    front_cores: int = 1
    link_bytes_s: float = math.inf  # of the network, out of each front
    latency_s: float = 0.0  # of the network, each way
    bytes: int = 0  # of a window


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    at_s: float
    n_windows: int
    audio_s: float  # of each window
    priority: Priority = "normal"

    @property
    def is_clip(self) -> bool:
        """Whether it is one window."""
        return self.n_windows == 1


class Clock:
    """What happens when; events of one time in the order in which they were set."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        """Let something happen at a time, or now where that is over."""
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._numbers), event))

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let something happen after a while."""
        self.at(self.now_s + delay_s, event)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let events happen until nothing is left, or until it is over."""
        while self._events and not is_over():
            self.now_s, _, event = heapq.heappop(self._events)
            event()


@dataclass(slots=True)
class Busy:
    """How long something works, of an interval."""

    from_s: float
    to_s: float
    total_s: float = 0.0

    def add(self, began_s: float, ended_s: float) -> None:
        """Count work; what is outside the interval does not."""
        self.total_s += max(0.0, min(ended_s, self.to_s) - max(began_s, self.from_s))


@dataclass(eq=False, slots=True)
class Job:
    """A request on its front; its windows come in order and are told in order, as the pipeline does."""

    arrival: Arrival
    front: Front
    stream: Any  # a RemoteStream
    n_made: int = 0
    ready: deque[Sent] = field(default_factory=deque)  # made, and kept until the language is known
    pending: deque[Sent] = field(default_factory=deque)  # sent, and not told
    is_making: bool = False  # one window at a time
    knows_language: bool = False

    def make(self) -> None:
        """Have the next window made, if it may be."""
        under_way = len(self.ready) + len(self.pending)
        if not self.is_making and self.n_made < self.arrival.n_windows and under_way < self.stream.ahead:
            self.is_making = True
            self.front.make(self)

    def made(self) -> None:
        """Take a window; the first one alone until it has told the language."""
        self.is_making = False
        self.n_made += 1
        self.ready.append(Sent(self))
        self._send()
        self.make()

    def answered(self) -> None:
        """Tell what is answered, in order, and go on."""
        self.knows_language = True
        while self.pending and self.pending[0].is_answered:
            self.pending.popleft()
        self._send()
        if self.n_made == self.arrival.n_windows and not self.pending and not self.ready:
            self.front.done(self)
        else:
            self.make()

    def _send(self) -> None:
        while self.ready and (self.knows_language or not self.pending):
            sent = self.ready.popleft()
            self.pending.append(sent)
            self.front.send(sent)


@dataclass(eq=False, slots=True)
class Sent:
    """A window."""

    job: Job
    is_answered: bool = False


class Front:
    """One front: its cores make windows of its requests by turns, its link sends one after the other."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.jobs: set[Job] = set()
        self.totals = Totals()
        self.busy, self.link = cluster.busy(), cluster.busy()
        self._cluster = cluster
        self._waiting: deque[Job] = deque()
        self._idle_cores = cluster.plan.front_cores
        self._link_free_s = 0.0
        card = ModelCard(INFO, cast("Any", None))  # nothing here asks the tokenizer
        self._scheduler = RemoteScheduler("model", cast("Replicas", self), card, Shutdown())

    @property
    def slots(self) -> int:
        """See `Replicas`."""
        return self.totals.slots.get(DEFAULT_GROUP, 0)

    @property
    def streams(self) -> int:
        """See `Replicas`."""
        return self.totals.streams.get(DEFAULT_GROUP, 0)

    def take(self, arrival: Arrival) -> None:
        """Begin with a request."""
        job = Job(arrival, self, self._scheduler.open_stream(arrival.priority))
        self.jobs.add(job)
        job.make()

    def make(self, job: Job) -> None:
        """Make a window when it is its turn."""
        self._waiting.append(job)
        self._go_on()

    def _go_on(self) -> None:
        plan, clock = self._cluster.plan, self._cluster.clock
        while self._waiting and self._idle_cores:
            job = self._waiting.popleft()
            self._idle_cores -= 1
            self.busy.add(clock.now_s, clock.now_s + plan.front_s)
            clock.after(plan.front_s, lambda job=job: self._made(job))  # type: ignore[misc]

    def _made(self, job: Job) -> None:
        self._idle_cores += 1
        job.made()
        self._go_on()

    def send(self, sent: Sent) -> None:
        """Send a window to the replica that Serve's router takes."""
        plan, clock = self._cluster.plan, self._cluster.clock
        self._scheduler.note(sent.job.stream, sum(not each.is_answered for each in sent.job.pending))
        replica = self._cluster.less_busy(self._cluster.replicas)
        replica.n_ongoing += 1
        began_s = max(clock.now_s, self._link_free_s)
        self._link_free_s = began_s + plan.bytes / plan.link_bytes_s
        self.link.add(began_s, self._link_free_s)
        clock.at(self._link_free_s + plan.latency_s, lambda: replica.take(sent))

    def done(self, job: Job) -> None:
        """End a request."""
        self.jobs.discard(job)
        job.stream.close()
        self._cluster.done(job.arrival)

    @property
    def n_ongoing(self) -> int:
        """Requests."""
        return len(self.jobs)

    def report(self, board: Board) -> None:
        """Report, and hear the sums."""
        streams = {DEFAULT_GROUP: self._scheduler.n_sharing}
        self.totals = board.report(FrontReport(self.name, 0, 0, streams, len(self.jobs)))


class Replica:
    """One replica: the fair queue of a single server, and one window at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self.n_ongoing = 0  # windows on their way, waiting, running
        self.busy = cluster.busy()
        self._cluster = cluster
        self._queue: FairQueue[Sent] = FairQueue()
        self._flows: dict[Job, Flow[Sent]] = {}  # of requests that have windows here
        self._n_of: dict[Job, int] = {}
        self._is_idle = True

    def take(self, sent: Sent) -> None:
        """Let a window wait for its turn."""
        job = sent.job
        flow = self._flows.setdefault(job, Flow(WEIGHTS[job.arrival.priority]))
        self._n_of[job] = self._n_of.get(job, 0) + 1
        self._queue.add(flow, sent, None)
        self._go_on()

    def _go_on(self) -> None:
        if not self._is_idle or not (taken := self._queue.take(1)):
            return
        self._is_idle = False
        clock = self._cluster.clock
        service_s = self._cluster.service_s(taken[0].job.arrival)
        self.busy.add(clock.now_s, clock.now_s + service_s)
        clock.after(service_s, lambda: self._answer(taken[0]))

    def _answer(self, sent: Sent) -> None:
        self._is_idle = True
        self.n_ongoing -= 1
        self._n_of[sent.job] -= 1
        if not self._n_of[sent.job]:
            del self._n_of[sent.job], self._flows[sent.job]
        sent.is_answered = True
        self._cluster.decoded(sent)
        self._cluster.clock.after(self._cluster.plan.latency_s, sent.job.answered)
        self._go_on()


class _HasWork(Protocol):
    @property
    def n_ongoing(self) -> int: ...


W = TypeVar("W", bound=_HasWork)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run shows; shares and sums are of its interval."""

    ended_s: float  # when the last request was answered
    audio_per_s: float  # seconds of audio decoded in a second
    replicas_busy: tuple[float, ...]  # share of the interval, of each
    fronts_busy: tuple[float, ...]  # of each one's cores
    links_busy: tuple[float, ...]
    clip_s: tuple[float, ...]  # from arrival to answer, of clips that came in the interval
    n_windows: int  # decoded in all, also outside the interval
    n_done: int  # requests

    def limit(self) -> str:
        """Return the part that has the least time left, and the share of the time that it works."""
        shares = {
            "replicas": sum(self.replicas_busy) / len(self.replicas_busy),
            "front": max(self.fronts_busy),
            "network": max(self.links_busy),
        }
        name = max(shares, key=lambda each: shares[each])
        return f"{name} {shares[name]:.0%}"


class Cluster:
    """A run, used once: arrivals in, an outcome out. Equal plans, arrivals and seeds have equal outcomes."""

    def __init__(self, plan: Plan, seed: int, interval_s: tuple[float, float] = (0.0, math.inf)) -> None:
        """Count what happens in `interval_s`."""
        self.plan = plan
        self.clock = Clock()
        self._chance = random.Random(seed)
        self._interval_s = interval_s
        self._board = Board(lambda: self.clock.now_s)
        self.replicas = [Replica(self) for _ in range(plan.replicas)]
        self.fronts = [Front(self, f"front {number}") for number in range(plan.fronts)]
        self._audio_s = 0.0
        self._clip_s: list[float] = []
        self._n_windows = self._n_done = 0

    def run(self, arrivals: Sequence[Arrival]) -> Outcome:
        """Let all requests come; run until the interval is over and all but endless ones are answered."""
        self._report_now_and_then()
        for arrival in arrivals:
            self.clock.at(arrival.at_s, lambda each=arrival: self._route(each))  # type: ignore[misc]
        n_wanted = sum(arrival.n_windows < ENDLESS for arrival in arrivals)
        start_s, end_s = self._interval_s
        least_s = 0.0 if math.isinf(end_s) else end_s
        self.clock.run(lambda: self._n_done >= n_wanted and self.clock.now_s >= least_s)
        length_s = min(end_s, self.clock.now_s) - start_s
        cores_s = length_s * self.plan.front_cores
        return Outcome(
            self.clock.now_s,
            self._audio_s / length_s,
            tuple(each.busy.total_s / length_s for each in self.replicas),
            tuple(each.busy.total_s / cores_s for each in self.fronts),
            tuple(each.link.total_s / length_s for each in self.fronts),
            tuple(self._clip_s),
            self._n_windows,
            self._n_done,
        )

    def busy(self) -> Busy:
        """Return a counter of the interval."""
        return Busy(*self._interval_s)

    def less_busy(self, among: Sequence[W]) -> W:
        """Return the less busy of two that are drawn by chance, as Serve's router does."""
        if len(among) == 1:
            return among[0]
        first, second = self._chance.sample(among, 2)
        return first if first.n_ongoing <= second.n_ongoing else second

    def service_s(self, arrival: Arrival) -> float:
        """Return how long a replica takes for one window."""
        plan = self.plan
        mean_s = plan.clip_service_s if arrival.is_clip else plan.service_s
        spread = plan.clip_spread if arrival.is_clip else plan.spread
        if not spread:
            return mean_s
        shape = spread**-2
        return self._chance.gammavariate(shape, mean_s / shape)

    def decoded(self, sent: Sent) -> None:
        """Count a window."""
        self._n_windows += 1
        if self._is_counted(self.clock.now_s):
            self._audio_s += sent.job.arrival.audio_s

    def done(self, arrival: Arrival) -> None:
        """Count a request."""
        self._n_done += 1
        if arrival.is_clip and self._is_counted(arrival.at_s):
            self._clip_s.append(self.clock.now_s - arrival.at_s)

    def _is_counted(self, time_s: float) -> bool:
        return self._interval_s[0] <= time_s < self._interval_s[1]

    def _route(self, arrival: Arrival) -> None:
        self.less_busy(self.fronts).take(arrival)

    def _report_now_and_then(self) -> None:
        """Have everybody report as in the cluster; replicas, which have nothing new to say, not as often."""
        for number in range(len(self.replicas)):
            report = ReplicaReport(f"replica {number}", DEFAULT_GROUP, INFO.max_batch * INFO.workers)
            self._every(SILENT_S / 2, 0.0, lambda each=report: self._board.report(each))  # type: ignore[misc]
        for number, front in enumerate(self.fronts):
            phase_s = REPORT_S * number / len(self.fronts)
            self._every(REPORT_S, phase_s, lambda each=front: each.report(self._board))  # type: ignore[misc]

    def _every(self, period_s: float, first_s: float, event: Callable[[], object]) -> None:
        def again() -> None:
            event()
            self.clock.after(period_s, again)

        self.clock.at(first_s, again)


ENDLESS = 10**9  # windows of a file that is longer than any run


def poisson(rate_per_s: float, until_s: float, seed: int, like: Arrival) -> Iterator[Arrival]:
    """Yield independent requests like one, at a rate."""
    chance = random.Random(seed)
    time_s = chance.expovariate(rate_per_s)
    while time_s < until_s:
        yield Arrival(time_s, like.n_windows, like.audio_s, like.priority)
        time_s += chance.expovariate(rate_per_s)
