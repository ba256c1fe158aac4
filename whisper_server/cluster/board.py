"""What is known of the cluster as a whole: who is there, how much waits, how fast it is, what was counted.

Fronts and replicas report here about once a second and hear the sums; no request depends on that. Without
threads, and with no clock but the one it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from whisper_server.core.merged_metrics import Family, MergedMetrics
from whisper_server.services.admission import Throughput

REPORT_S = 1.0  # from one report of a process to its next
SILENT_S = 10.0  # after which a process that has not reported counts as ended


@dataclass(frozen=True, slots=True)
class FrontReport:
    """What one front has to do."""

    name: str  # of the process, never used again
    steps_left: int  # of 30 s, of all that is admitted there
    steps_done: int  # since it started
    streams: Mapping[str, int]  # deployment of models -> requests that its slots are shared among
    requests: int = 0  # that are admitted there
    families: tuple[Family, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What one model replica can do."""

    name: str  # of the process, never used again
    deployment: str
    slots: int  # windows at once; 0 until a model is loaded
    families: tuple[Family, ...] = ()


Report = FrontReport | ReplicaReport


@dataclass(frozen=True, slots=True)
class Totals:
    """The cluster as a whole."""

    fronts: int = 0
    steps_left: int = 0
    steps_per_s: float = 0.0  # while there was work, the last minute of it counting most; 0: not known yet
    slots: Mapping[str, int] = field(default_factory=dict)  # deployment -> windows at once
    replicas: Mapping[str, int] = field(default_factory=dict)  # deployment -> replicas
    # deployment -> requests that its slots are shared among
    streams: Mapping[str, int] = field(default_factory=dict)
    requests: int = 0  # that are admitted
    is_draining: bool = False  # the end of the cluster has begun: fronts take no more


class Board:
    """Adds up what fronts and replicas report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, Report] = {}
        self._heard_s: dict[str, float] = {}
        self._throughput = Throughput()
        self._seen_s = clock()
        self._metrics = MergedMetrics()
        self._is_draining = False

    def drain(self) -> None:
        """Tell every front, with its next report, to take no more requests. Idempotent."""
        self._is_draining = True

    def report(self, report: Report) -> Totals:
        """Take the newest report of a process; return the cluster with it."""
        self._advance()
        before = self._reports.get(report.name)
        if isinstance(report, FrontReport) and isinstance(before, FrontReport):
            self._throughput.gain(report.steps_done - before.steps_done)
        self._reports[report.name] = report
        self._heard_s[report.name] = self._seen_s
        self._metrics.update(report.name, report.families)
        return self.totals()

    def totals(self) -> Totals:
        """Return the cluster, as far as it has reported."""
        fronts = [each for each in self._reports.values() if isinstance(each, FrontReport)]
        replicas = [each for each in self._reports.values() if isinstance(each, ReplicaReport)]
        return Totals(
            fronts=len(fronts),
            steps_left=sum(each.steps_left for each in fronts),
            steps_per_s=self._throughput.steps_per_s,
            slots=_sums((each.deployment, each.slots) for each in replicas),
            replicas=_sums((each.deployment, 1) for each in replicas),
            streams=_sums(pair for each in fronts for pair in each.streams.items()),
            requests=sum(each.requests for each in fronts),
            is_draining=self._is_draining,
        )

    def page(self) -> tuple[bytes, str]:
        """Return the metrics of all processes as one page, and its media type."""
        self._advance()
        return self._metrics.exposition()

    def _advance(self) -> None:
        """Count the time since the last call as busy, if there was work; drop who is silent."""
        now_s = self._clock()
        if any(isinstance(each, FrontReport) and each.steps_left for each in self._reports.values()):
            self._throughput.spend(max(0.0, now_s - self._seen_s))
        self._seen_s = now_s
        for name in [each for each, heard_s in self._heard_s.items() if now_s - heard_s > SILENT_S]:
            del self._heard_s[name], self._reports[name]
            self._metrics.end(name)


def _sums(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, number in pairs:
        found[name] = found.get(name, 0) + number
    return found
