"""The events of the work that are worth counting, and a listener that ignores them.

`core.metrics` counts them. Where they are not shown, as on the command line, this listener takes them, and
the library that counts is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

# Where a request was when its client disconnected: sending its body, waiting, or receiving the reply.
Stage = Literal["upload", "work", "reply"]


class Events:
    """A listener that does nothing; every method may be called from any thread."""

    def request_done(self, route: str | None, method: str, status: int, wall_s: float) -> None:
        """A request has ended. `route` is a template such as `/v1/models/{model}`, None for unknown paths."""

    def request_failed(self, error: str) -> None:
        """A request ended with an error of ours; `error` is the name of its class."""

    def client_disconnected(self, stage: Stage) -> None:
        """A client disconnected before the end of its reply."""

    def audio_read(self, audio_s: float) -> None:
        """A request has read this much audio, whether or not its transcription was finished."""

    def audio_transcribed(self, audio_s: float, wall_s: float) -> None:
        """A file was transcribed from beginning to end; `wall_s` includes waiting."""

    def window_waited(self, wait_s: float) -> None:
        """A window has waited this long for its batch."""

    def batch_done(self, n_windows: int, audio_s: float, wall_s: float) -> None:
        """The device has decoded a batch with this much audio."""

    def windows_cancelled(self, n: int) -> None:
        """Windows were cancelled before or while they were decoded."""

    def windows_failed(self, n: int) -> None:
        """Windows were answered with an error."""

    def worker_replaced(self) -> None:
        """The thread that runs the device was replaced."""

    def job_submitted(self) -> None:
        """A job was taken."""

    def job_ended(self, status: str) -> None:
        """A job has ended; `status` is one of its states."""

    def callback_sent(self, outcome: str) -> None:
        """A callback was sent; `outcome` is delivered, retried or given_up."""

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show what `read` returns at each `exposition`, whose thread calls it."""

    async def page(self) -> tuple[bytes, str]:
        """Return what /metrics shows, and its media type: the exposition, or that of more processes."""
        return self.exposition()

    def exposition(self) -> tuple[bytes, str]:
        """Return everything in the text format of Prometheus, and its media type."""
        return b"", "text/plain"
