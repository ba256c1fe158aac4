"""Which windows go to the device next: the scheduler's policy, without device, thread or clock.

Theory of operation: stride scheduling (Waldspurger and Weihl, 1995). Every request is a flow with a
pass; the flow with the smallest pass gives the next window, among equals the heaviest, and each window
moves its pass on by one over the flow's weight. A flow that comes, or comes back, starts at the pass the
queue has reached: it has no claim on the past and does not wait for the backlog of others. So requests are
interleaved by window, a short clip behind a long file is in one of the next batches, and a flow of weight
4 gets four windows for every one of its neighbours' while no flow starves.

Not thread-safe: the owner of a queue guards it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

J = TypeVar("J", bound=Hashable)


class Flow(Generic[J]):
    """One request: its windows in file order, each with what its batch must share."""

    __slots__ = ("has_begun", "pass_", "waiting", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        self.pass_ = 0.0  # virtual time of its next window
        self.has_begun = False  # one of its windows was taken
        self.waiting: deque[tuple[J, Hashable]] = deque()  # of the queue alone

    def __len__(self) -> int:
        return len(self.waiting)


class FairQueue(Generic[J]):
    """What waits, by flow; `take` says what runs next."""

    def __init__(self) -> None:
        self._flows: dict[Flow[J], None] = {}  # those with waiting jobs, in order of arrival
        self._now = 0.0  # virtual time: the pass of the flow that was served last

    def __len__(self) -> int:
        return sum(map(len, self._flows))

    def add(self, flow: Flow[J], job: J, kind: Hashable) -> None:
        """Let the job wait; only jobs of equal `kind` share a batch, and all of a flow should be of one."""
        if flow not in self._flows:
            flow.pass_ = max(flow.pass_, self._now)
            self._flows[flow] = None
        flow.waiting.append((job, kind))

    def take(self, limit: int) -> list[J]:
        """Take up to `limit` jobs of one kind, the fairest first; [] where nothing waits."""
        batch: list[J] = []
        kind: Hashable = None
        while len(batch) < limit:
            ready = [flow for flow in self._flows if not batch or flow.waiting[0][1] == kind]
            if not ready:
                break
            # Among equals of one weight the first to come.
            flow = min(ready, key=lambda each: (each.pass_, -each.weight))
            if not batch:
                self._now = flow.pass_
            job, kind = flow.waiting.popleft()
            batch.append(job)
            flow.has_begun = True
            flow.pass_ += 1.0 / flow.weight
            self._drop_if_empty(flow)
        return batch

    def remove(self, flow: Flow[J], job: J) -> bool:
        """Remove a job that is no longer wanted; return whether it was here."""
        for waiting in flow.waiting:
            if waiting[0] == job:
                flow.waiting.remove(waiting)
                self._drop_if_empty(flow)
                return True
        return False

    def clear(self, *, begun: bool = True) -> list[J]:
        """Remove everything, or only flows that have not begun; return the jobs."""
        flows = [flow for flow in self._flows if begun or not flow.has_begun]
        jobs = [job for flow in flows for job, _ in flow.waiting]
        for flow in flows:
            flow.waiting.clear()
            self._drop_if_empty(flow)
        return jobs

    def _drop_if_empty(self, flow: Flow[J]) -> None:
        if not flow and flow in self._flows:
            del self._flows[flow]


def share(waiting: int, idle: int, limit: int) -> int:
    """Return how many jobs one of `idle` workers takes, so that the others have work too."""
    return min(limit, math.ceil(waiting / max(1, idle)))


class BatchLimit:
    """How many windows a batch may have: halved when the device runs out of memory, for a while.

    After `RECOVERY_BATCHES` batches as large as allowed went well, the limit is doubled again.
    """

    RECOVERY_BATCHES = 16

    def __init__(self, most: int) -> None:
        self._most = most
        self._good = 0
        self.value = most

    def failed(self, n_windows: int) -> None:
        """Take note of a batch that the device had no memory for."""
        self.value = max(1, min(self.value, n_windows // 2))
        self._good = 0

    def succeeded(self, n_windows: int) -> None:
        """Take note of a batch that went well."""
        if self.value >= self._most or n_windows < self.value:
            return
        self._good += 1
        if self._good >= self.RECOVERY_BATCHES:
            self.value = min(self._most, self.value * 2)
            self._good = 0
