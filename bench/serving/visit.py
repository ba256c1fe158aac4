"""One visit to one server: start it, measure what the plan says, end it.

A visit gives one figure of each kind; medians are made of several, which `__main__.py` spreads over time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.figures import percentile
from bench.serving.servers import ROOT, Setup, Started, checkpoint, running

RATES = (0.5, 0.8, 1.2, 3.0)  # of the capacity that the closed loop has just found
PARTS = ("start", "latency", "long", "clients", "open")
WARM_UP = 4  # clients at once, with one request each, before anything is counted
MOST_REQUESTS = 1000
REST_S = 2.0  # after the first transcript, before the memory with one model is read
_LONGEST_S = 3600.0  # where a request must not be given up


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured in a visit, and how long it may take."""

    parts: tuple[str, ...] = PARTS
    repeats: int = 3  # of a single clip; the median counts
    seconds: float = 12.0  # that a loop should take; slow servers get fewer requests
    clients: int = 16
    minutes: float = 10.0  # of the long file
    timeout_s: float = 30.0  # of a client in the open loop
    language: bool = False  # clients say the language
    rates: tuple[float, ...] = RATES

    def count(self, per_s: float, least: int) -> int:
        """Return how many requests fill the time at this rate."""
        return min(max(round(per_s * self.seconds), least), MOST_REQUESTS)


@dataclass(slots=True)
class Visit:
    """What one life of a server showed."""

    server: str
    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)  # seconds, to be pooled over visits
    wrong: dict[str, str] = field(default_factory=dict)  # clip -> what was heard, where it is wrong


def visit(name: str, setup: Setup, plan: Plan, seed: int) -> Visit:
    """Measure one life of the server."""
    result = Visit(name)
    with running(name, setup) as server:
        result.figures["start to /health, s"] = server.health_s
        result.figures["memory at /health, MB"] = server.memory_mb()
        _measured(result, server, plan, "first", "--clips", "short", setup=setup)
        result.figures["start to first transcript, s"] = time.perf_counter() - server.started_at
        time.sleep(REST_S)
        result.figures["memory with one model, MB"] = server.memory_mb()
        steps = {"latency": _latency, "long": _long, "clients": _clients, "open": _open}
        for part, step in steps.items():
            if part in plan.parts:
                step(result, server, setup, plan, seed)
    return result


def _latency(result: Visit, server: Started, setup: Setup, plan: Plan, _: int) -> None:
    for clips in ("short", "window"):
        flags = ("--clips", clips, "--requests", str(plan.repeats))
        replies = _measured(result, server, plan, clips, *flags, setup=setup)
        result.figures[f"{clips} clip, s"] = statistics.median(reply["latency_s"] for reply in replies)


def _long(result: Visit, server: Started, setup: Setup, plan: Plan, _: int) -> None:
    flags = ("--clips", "long", "--minutes", str(plan.minutes))
    (reply,) = _measured(result, server, plan, "long", *flags, setup=setup)
    result.figures["long file, times real time"] = plan.minutes * 60 / reply["latency_s"]


def _clients(result: Visit, server: Started, setup: Setup, plan: Plan, seed: int) -> None:
    """Find the capacity: the rate at which all of the requests were answered, the last ones included."""
    warm = ("--requests", str(WARM_UP), "--clients", str(WARM_UP), "--seed", str(seed))
    began = time.perf_counter()
    _measured(result, server, plan, "", *warm, setup=setup)
    guess_per_s = WARM_UP / (time.perf_counter() - began)
    n_requests = plan.count(guess_per_s, plan.clients)
    flags = ("--requests", str(n_requests), "--clients", str(plan.clients), "--seed", str(seed))
    outcome: dict[str, Any] = {}
    _measured(result, server, plan, "clients", *flags, setup=setup, outcome=outcome, probe=True)
    result.figures["clients, requests/s"] = n_requests / outcome["wall_s"]
    result.figures["clients, memory, MB"] = outcome["memory_mb"]


def _open(result: Visit, server: Started, setup: Setup, plan: Plan, seed: int) -> None:
    capacity = result.figures["clients, requests/s"]
    for factor in plan.rates:
        per_s = factor * capacity
        key = f"open {factor:g}"
        flags = ["--rate", str(per_s), "--requests", str(plan.count(per_s, 8)), "--seed", str(seed)]
        outcome: dict[str, Any] = {}
        timeout = ("--timeout", str(plan.timeout_s))
        replies = _measured(
            result, server, plan, key, *flags, *timeout, setup=setup, outcome=outcome, probe=True
        )
        answered = sum(reply["status"] == 200 for reply in replies)
        result.figures[f"{key}, offered/s"] = per_s
        result.figures[f"{key}, answered/s"] = answered / outcome["wall_s"]
        result.figures[f"{key}, refused %"] = _share(replies, lambda s: s in {429, 503})
        result.figures[f"{key}, given up %"] = _share(replies, lambda s: s == 0)


def _share(replies: list[dict[str, Any]], is_meant: Callable[[int], bool]) -> float:
    return 100 * sum(is_meant(reply["status"]) for reply in replies) / len(replies)


def _measured(
    result: Visit,
    server: Started,
    plan: Plan,
    key: str,
    *flags: str,
    setup: Setup,
    outcome: dict[str, Any] | None = None,
    probe: bool = False,
) -> list[dict[str, Any]]:
    """Run the load generator; keep times and wrong texts under `key` (none: it only warms up)."""
    found = outcome if outcome is not None else {}
    language = ["--language"] if plan.language else []
    found.update(load(server, checkpoint(setup).name, *flags, *language, probe=probe))
    replies: list[dict[str, Any]] = found["replies"]
    if not key:
        return replies
    done = [reply for reply in replies if reply["status"] == 200]
    if len(done) < len(replies) and not key.startswith("open"):
        raise RuntimeError(f"{server.name} failed: {[reply['status'] for reply in replies]}")
    result.samples[key] = [reply["latency_s"] for reply in done]
    result.samples[f"{key}, /health"] = found.get("probe_s", [])
    result.wrong.update({reply["clip"]: reply["heard"] for reply in done if reply["wrong_words"]})
    n_words = sum(reply["n_words"] for reply in done)
    wrong = sum(reply["wrong_words"] for reply in done)
    result.figures[f"{key}, wrong words %"] = 100 * wrong / n_words if n_words else float("nan")
    return replies


def load(server: Started, model: str, *flags: str, probe: bool = False) -> dict[str, Any]:
    """Run the generator, and the probe beside it; watch the memory meanwhile."""
    base = [sys.executable, "-m", "bench.serving.load", server.url]
    timeout = [] if "--timeout" in flags else ["--timeout", str(_LONGEST_S)]
    command = [*base, "--model", model, *timeout, *flags]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    prober = subprocess.Popen([*base, "--probe"], **pipes) if probe else None
    peak_mb = server.memory_mb()
    try:
        with subprocess.Popen(command, **pipes) as generator:
            while True:
                try:
                    text, _ = generator.communicate(timeout=0.25)
                    break
                except subprocess.TimeoutExpired:
                    peak_mb = max(peak_mb, server.memory_mb())
    finally:
        probed = json.loads(prober.communicate()[0]) if prober else {}
    return {**json.loads(text), **probed, "memory_mb": peak_mb}


def pooled(visits: list[Visit], key: str, percent: float) -> float:
    """Return a percentile over the requests of all visits, in seconds."""
    return percentile([sample for each in visits for sample in each.samples.get(key, [])], percent)
