"""Events -> counters in the text format of Prometheus; docs/metrics.md lists them, and a test compares.

Owns a registry, so that two applications in one process do not add up. No label has a value
from a client: routes are templates, methods and errors come from fixed sets, and what is not among them
is `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from whisper_server.core.errors import WhisperServerError
from whisper_server.core.events import Events, Stage
from whisper_server.core.logging import dropped_lines

OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
JOB_ENDS = ("completed", "failed", "expired", "cancelled")
CALLBACKS = ("delivered", "retried", "given_up")
NOT_CLASSES = ("bug", "shutdown")  # outcomes of requests besides our errors

WAIT_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
REQUEST_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
AUDIO_S = (1, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400)
FACTOR = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
WINDOWS = (1, 2, 4, 8, 16, 32, 64)

GAUGES = {
    "whisper_queue_requests": "Requests with audio inside, running and waiting.",
    "whisper_queue_audio_seconds": "Seconds of their audio still to be decoded, as far as known.",
    "whisper_queue_upload_bytes": "Bytes of their bodies held in memory.",
    "whisper_queue_limit_requests": "WHISPER_QUEUE_REQUESTS.",
    "whisper_queue_limit_audio_seconds": "WHISPER_QUEUE_SECONDS.",
    "whisper_queue_limit_upload_bytes": "WHISPER_QUEUE_MB in bytes, or one largest upload.",
    "whisper_models_loaded": "Models in memory.",
    "whisper_models_bytes": "Bytes that they take at the busiest moment, weights included.",
    "whisper_realtime_sessions": "Realtime sessions that are open.",
    "whisper_jobs_running": "Jobs that this server is at.",
}


class Metrics(Events):
    """Counts events; thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_LogCollector())
        self._gauges = {name: Gauge(name, text, registry=self.registry) for name, text in GAUGES.items()}
        self._count_requests()
        self._count_audio()
        self._count_windows()
        self._count_jobs()

    def _count_requests(self) -> None:
        registry = self.registry
        self._requests = Counter(
            "whisper_requests", "Requests that have ended.", ["route", "method", "status"], registry=registry
        )
        self._request_s = Histogram(
            "whisper_request_seconds",
            "From the headers of a request to the end of its reply.",
            ["route"],
            registry=registry,
            buckets=REQUEST_S,
        )
        self._failures = Counter(
            "whisper_request_failures", "Requests that ended with an error.", ["error"], registry=registry
        )
        self._errors = {kind.__name__ for kind in _errors(WhisperServerError)} | {*NOT_CLASSES, OTHER}
        self._disconnects = Counter(
            "whisper_clients_gone",
            "Clients that disconnected before the end of their reply.",
            ["stage"],
            registry=registry,
        )
        for error in self._errors:  # from zero: the first of its kind shows in rates
            self._failures.labels(error)
        for stage in get_args(Stage):
            self._disconnects.labels(stage)

    def _count_audio(self) -> None:
        registry = self.registry
        self._audio_s = Histogram(
            "whisper_audio_seconds", "Audio read, per request.", registry=registry, buckets=AUDIO_S
        )
        self._transcribing_s = Counter(
            "whisper_transcribing_seconds",
            "Time that finished transcriptions took.",
            registry=registry,
        )
        self._factor = Histogram(
            "whisper_real_time_factor",
            "Time that a transcription took, by the length of its audio; below 1 is faster than listening.",
            registry=registry,
            buckets=FACTOR,
        )

    def _count_windows(self) -> None:
        registry = self.registry
        self._wait_s = Histogram(
            "whisper_window_wait_seconds",
            "Time that windows of 30 s waited for the device.",
            registry=registry,
            buckets=WAIT_S,
        )
        self._batch_windows = Histogram(
            "whisper_batch_windows", "Windows per batch.", registry=registry, buckets=WINDOWS
        )
        self._batch_s = Histogram(
            "whisper_batch_seconds", "Time per batch.", registry=registry, buckets=WAIT_S
        )
        self._batch_audio_s = Counter(
            "whisper_batch_audio_seconds", "Audio in these batches, padding left out.", registry=registry
        )
        self._cancelled = Counter(
            "whisper_windows_cancelled", "Windows of requests that were cancelled.", registry=registry
        )
        self._failed = Counter(
            "whisper_windows_failed", "Windows that were answered with an error.", registry=registry
        )
        self._replaced = Counter(
            "whisper_workers_replaced", "Workers of the device that were replaced.", registry=registry
        )

    def _count_jobs(self) -> None:
        registry = self.registry
        self._submitted = Counter("whisper_jobs_submitted", "Jobs that were taken.", registry=registry)
        self._ended = Counter("whisper_jobs_ended", "Jobs that have ended.", ["state"], registry=registry)
        self._callbacks = Counter(
            "whisper_job_callbacks", "Callbacks that were sent.", ["outcome"], registry=registry
        )
        for status in JOB_ENDS:
            self._ended.labels(status)
        for outcome in CALLBACKS:
            self._callbacks.labels(outcome)

    def request_done(self, route: str | None, method: str, status: int, wall_s: float) -> None:
        """Count a request; status 0 is one that was never answered."""
        route = route or OTHER
        self._requests.labels(route, method if method in METHODS else OTHER, str(status)).inc()
        self._request_s.labels(route).observe(wall_s)

    def request_failed(self, error: str) -> None:
        """Count an error by its class."""
        self._failures.labels(error if error in self._errors else OTHER).inc()

    def client_disconnected(self, stage: Stage) -> None:
        """Count a client that disconnected."""
        self._disconnects.labels(stage).inc()

    def audio_read(self, audio_s: float) -> None:
        """Count audio, whether or not it was transcribed."""
        self._audio_s.observe(audio_s)

    def audio_transcribed(self, audio_s: float, wall_s: float) -> None:
        """Count the time of a transcription, and its real time factor."""
        self._transcribing_s.inc(wall_s)
        if audio_s > 0:
            self._factor.observe(wall_s / audio_s)

    def window_waited(self, wait_s: float) -> None:
        """Count a wait."""
        self._wait_s.observe(wait_s)

    def batch_done(self, n_windows: int, audio_s: float, wall_s: float) -> None:
        """Count a batch."""
        self._batch_windows.observe(n_windows)
        self._batch_s.observe(wall_s)
        self._batch_audio_s.inc(audio_s)

    def windows_cancelled(self, n: int) -> None:
        """Count windows that were cancelled."""
        self._cancelled.inc(n)

    def windows_failed(self, n: int) -> None:
        """Count windows that failed."""
        self._failed.inc(n)

    def worker_replaced(self) -> None:
        """Count a worker that was replaced."""
        self._replaced.inc()

    def job_submitted(self) -> None:
        """Count a job."""
        self._submitted.inc()

    def job_ended(self, status: str) -> None:
        """Count the end of a job."""
        self._ended.labels(status if status in JOB_ENDS else OTHER).inc()

    def callback_sent(self, outcome: str) -> None:
        """Count a callback."""
        self._callbacks.labels(outcome if outcome in CALLBACKS else OTHER).inc()

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show one of `GAUGES`."""
        self._gauges[name].set_function(read)

    async def page(self) -> tuple[bytes, str]:
        """Return what /metrics shows, and its media type."""
        return self.exposition()

    def exposition(self) -> tuple[bytes, str]:
        """Return the page, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


class _LogCollector(Collector):
    """Shows what the log counts; it belongs to the process, as what `ProcessCollector` shows."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        text = (
            "Lines of the log that were dropped because they were not read in time, or could not be written."
        )
        yield CounterMetricFamily("whisper_log_lines_dropped", text, value=dropped_lines())


def _errors(kind: type[WhisperServerError]) -> set[type[WhisperServerError]]:
    """Return the class and everything below it."""
    return {kind}.union(*(_errors(child) for child in kind.__subclasses__()))
