"""The metrics of several processes, added up to one page in the text format of Prometheus.

What belongs to one process alone (its memory, its descriptors) is left out. Counters of a process that has
ended stay in the sums, or they would fall; its gauges go. For one thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

Labels = tuple[tuple[str, str], ...]

OF_ONE_PROCESS = "process_"
KEPT_APART = 64  # processes that have ended, in case that one comes back
_MOMENT = "_created"  # when a counter began: no sum


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of one process, as plain values that can travel."""

    name: str
    kind: str  # "counter", "gauge", "histogram"
    text: str
    samples: tuple[tuple[str, Labels, float], ...]  # name, labels, value


def families_of(registry: CollectorRegistry) -> tuple[Family, ...]:
    """Return everything that a registry shows now."""
    return tuple(
        Family(
            each.name,
            each.type,
            each.documentation,
            tuple((one.name, tuple(sorted(one.labels.items())), one.value) for one in each.samples),
        )
        for each in registry.collect()
        if not each.name.startswith(OF_ONE_PROCESS)
    )


class MergedMetrics:
    """The newest values of each process, and what those that have ended counted."""

    def __init__(self) -> None:
        self._of: dict[str, Sequence[Family]] = {}
        self._ended_of: dict[str, Sequence[Family]] = {}  # counters, in the order in which they ended
        self._ended: tuple[Family, ...] = ()  # the sum of those before

    def update(self, process: str, families: Sequence[Family]) -> None:
        """Take the newest values of a process; one that was taken for ended may come back."""
        self._ended_of.pop(process, None)
        self._of[process] = families

    def end(self, process: str) -> None:
        """Keep the counters of a process that has ended."""
        self._ended_of[process] = [each for each in self._of.pop(process, ()) if each.kind != "gauge"]
        if len(self._ended_of) > KEPT_APART:
            first = next(iter(self._ended_of))
            self._ended = _summed([self._ended, self._ended_of.pop(first)])

    def exposition(self) -> tuple[bytes, str]:
        """Return the page, and its media type."""
        registry = CollectorRegistry()
        registry.register(_Shown(_summed([self._ended, *self._ended_of.values(), *self._of.values()])))
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Shown(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for each in self._families:
            metric = Metric(each.name, each.text, each.kind)
            for name, labels, value in each.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _summed(sources: Iterable[Sequence[Family]]) -> tuple[Family, ...]:
    """Add up families of the same name, sample by sample, in order of first appearance."""
    seen: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Labels], float]] = defaultdict(lambda: defaultdict(float))
    for family in (each for source in sources for each in source):
        seen.setdefault(family.name, family)
        for name, labels, value in family.samples:
            if not name.endswith(_MOMENT):
                sums[family.name][name, labels] += value
    return tuple(
        Family(name, one.kind, one.text, tuple((*key, value) for key, value in sums[name].items()))
        for name, one in seen.items()
    )
