"""A stream that asks the device only for what is not known yet: what was said of a window before is kept.

Whoever keeps it decides for how long, and where. A window is known by its sound and by everything that it
is decoded with, so what comes back is what the device would say: the pipeline behind it cannot tell.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from whisper_server.core.types import Decoded, DecodeOptions, WindowJob


class DecodeStream(Protocol):
    """Takes the windows of one request, on the event loop."""

    @property
    def ahead(self) -> int:
        """How many windows to have ready."""
        ...

    def submit(self, window: WindowJob, options: DecodeOptions) -> Future[Decoded]:
        """Queue one window; cancelling its future takes it off the device.

        Raises:
            Unavailable: no new work is taken.
        """
        ...


class DecodedMemory(Protocol):
    """What was said of the windows of one recording; called on any thread, and never waits."""

    def recall(self, key: str) -> Decoded | None:
        """Return what was said of a window, if that is known."""
        ...

    def note(self, key: str, decoded: Decoded) -> None:
        """Take what was said of a window."""
        ...


class RememberedStream:
    """A stream of windows of which some may be known."""

    def __init__(self, stream: DecodeStream, memory: DecodedMemory) -> None:
        self._stream = stream
        self._memory = memory

    @property
    def ahead(self) -> int:
        """How many windows to have ready."""
        return self._stream.ahead

    def submit(self, window: WindowJob, options: DecodeOptions) -> Future[Decoded]:
        """Answer at once where the window is known, else queue it; raises as the stream does."""
        key = key_of(window, options)
        known = self._memory.recall(key)
        if known is not None:
            future: Future[Decoded] = Future()
            future.set_result(known)
            return future

        def note(done: Future[Decoded]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._memory.note(key, done.result())

        future = self._stream.submit(window, options)
        future.add_done_callback(note)
        return future


def key_of(job: WindowJob, options: DecodeOptions) -> str:
    """Return a name for a window and what it is decoded with; takes a millisecond."""
    window = job.window
    asked = [getattr(job, each.name) for each in fields(job) if each.name != "window"]
    digest = blake2b(repr((window.duration_s, window.voice, asked, options)).encode(), digest_size=16)
    digest.update(window.mel.tobytes())
    return digest.hexdigest()
