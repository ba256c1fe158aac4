"""What there is to tell about the work: the names of the events, and a listener that forgets them.

`core.metrics` counts them. Who has nobody to show them to, as the command line, takes the listener here
and does not import the library that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

# Where a request was when its client left: sending its body, waiting for the work, taking the reply.
Stage = Literal["upload", "work", "reply"]


class Events:
    """Is told what happens, from any thread, and does nothing with it."""

    def request_done(self, route: str | None, method: str, status: int, wall_s: float) -> None:
        """A request has ended. `route` is a template such as `/v1/models/{model}`, None for unknown paths."""

    def request_failed(self, error: str) -> None:
        """A request ended with an error of ours; `error` is the name of its class."""

    def client_disconnected(self, stage: Stage) -> None:
        """A client left before it had its reply."""

    def audio_read(self, audio_s: float) -> None:
        """A request has read so much audio, whether or not it came to its end."""

    def audio_transcribed(self, audio_s: float, wall_s: float) -> None:
        """A file was transcribed from beginning to end; waiting included."""

    def window_waited(self, wait_s: float) -> None:
        """A window has waited for its batch."""

    def batch_done(self, n_windows: int, audio_s: float, wall_s: float) -> None:
        """The device has decoded a batch of so much audio."""

    def windows_cancelled(self, n: int) -> None:
        """Windows were given up because nobody waits for them any more."""

    def windows_failed(self, n: int) -> None:
        """Windows were answered with an error."""

    def worker_replaced(self) -> None:
        """The process or thread that talks to the device had to be started anew."""

    def watch(self, gauge: str, read: Callable[[], float]) -> None:
        """Show what `read` returns whenever somebody looks; called where `exposition` is."""

    def exposition(self) -> tuple[bytes, str]:
        """Return everything in the text format of Prometheus, and its media type."""
        return b"", "text/plain"
