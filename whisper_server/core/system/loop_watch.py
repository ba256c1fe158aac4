"""A thread that notices when the event loop does not turn any more, and lets signals end the process then.

Everything that ends the server in order happens on the event loop, and so does `/health`. Where a call blocks
it, no signal handler helps: Python runs handlers on the main thread, between two instructions. This thread
reads signals from a pipe, into which C writes them (`signal.set_wakeup_fd`). A call that holds the
interpreter's lock stops this thread too: then only SIGKILL ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

STUCK_S = 10.0
_LOOK_EVERY_S = 0.5
_MAX_FRAMES = 20  # the innermost ones


class LoopWatch:
    """Watches the loop on whose thread it was started, from `start` to `stop`.

    Time is counted in looks: a process that was stopped, or a machine that slept, has not been stuck
    meanwhile.
    """

    def __init__(
        self, end_signals: Iterable[int], end: Callable[[], None], *, stuck_s: float = STUCK_S
    ) -> None:
        """Take the signals that ask for the end, and what ends the process at once, on another thread."""
        self._end_signals = frozenset(end_signals)
        self._end = end
        # Between two turns there may be two looks, as both clocks drift.
        self._stuck_looks = max(3, round(stuck_s / _LOOK_EVERY_S))
        self._stuck_s = stuck_s
        self._looks = 0  # since the loop has turned
        self._is_asked = False  # to end
        self._is_over = threading.Event()
        self._loop_thread = threading.get_ident()
        self._timer: asyncio.TimerHandle | None = None
        self._signals = -1  # what C writes signals into, and we read them from

    @property
    def is_stuck(self) -> bool:
        """Whether the loop has not turned for too long."""
        return self._looks >= self._stuck_looks

    def start(self) -> None:
        """Begin to watch; call it on the loop's thread."""
        self._loop_thread = threading.get_ident()
        self._turn(asyncio.get_running_loop())
        if os.name == "posix":  # elsewhere asyncio has its own use for it
            self._signals, written = os.pipe()
            os.set_blocking(self._signals, False)
            os.set_blocking(written, False)
            signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()

    def stop(self) -> None:
        """End the watch; call it on the loop's thread."""
        self._is_over.set()
        if os.name == "posix":
            written = signal.set_wakeup_fd(-1)
            if written >= 0:
                os.close(written)
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looks = 0
        self._timer = loop.call_later(_LOOK_EVERY_S, self._turn, loop)

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_EVERY_S):
            self._looks += 1
            self._is_asked = self._is_asked or self._has_signal()
            if self._looks == self._stuck_looks:
                log.error(
                    "the event loop has not turned for %g s; it is at: %s", self._stuck_s, self._where()
                )
            if self.is_stuck and self._is_asked:
                log.error("the process ends now: it was asked to, and its event loop does not turn")
                self._end()
        if self._signals >= 0:
            os.close(self._signals)

    def _has_signal(self) -> bool:
        """Tell whether a signal has come that asks the process to end."""
        with suppress(OSError):  # nothing was written
            return bool(self._end_signals.intersection(os.read(self._signals, 1 << 10)))
        return False

    def _where(self) -> str:
        """Return the loop's stack on one line, the innermost call first."""
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame)[-_MAX_FRAMES:]
        return " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in reversed(stack))
