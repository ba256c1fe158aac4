"""What a process at work is up to: whether its step takes long, and whether it does anything at all.

Owns the limits of time that the server's side sets; the child has its own, on the processor's clock. Decides
nothing about files.
"""

from __future__ import annotations

from enum import Enum, auto
from weakref import WeakKeyDictionary

from whisper_server.core.system.process import is_stopped, processor_time_s
from whisper_server.services.audio.decoder_process.handle import DecoderProcess

# A step takes milliseconds. One that takes so long makes its file a suspect: half of it in processor time,
# where the system tells that, because on a busy machine every step waits; or several times as long.
SLOW_S = 1.0
IDLE_SLOW_S = 5.0
START_LIMIT_S = 30.0
# A process reads the beginning of a file that it is to open at once.
ANSWER_LIMIT_S = 5.0
STEP_LIMIT_S = 40.0  # longer than the child's own limit, which says where it hangs


class Verdict(Enum):
    """How a process at work does."""

    FINE = auto()
    SLOW = auto()
    LOST = auto()  # it does not answer


class Watch:
    """Looks at processes now and then; for one thread."""

    def __init__(self) -> None:
        # The request at which a process was seen first, and its processor time then.
        self._seen: WeakKeyDictionary[DecoderProcess, tuple[int, float]] = WeakKeyDictionary()

    def look_at(self, process: DecoderProcess) -> Verdict:
        """Tell how a process does with the request that it works on."""
        waited_s = process.waited_s
        if not process.is_ready:
            return Verdict.LOST if waited_s > START_LIMIT_S else Verdict.FINE
        is_silent = process.is_opening and not process.has_answered
        if (
            waited_s > STEP_LIMIT_S
            or (waited_s > ANSWER_LIMIT_S and is_silent)
            or (waited_s > SLOW_S and is_stopped(process.pid))
        ):
            return Verdict.LOST
        return Verdict.SLOW if self._is_slow(process, waited_s) else Verdict.FINE

    def _is_slow(self, process: DecoderProcess, waited_s: float) -> bool:
        used_s = processor_time_s(process.pid)
        if used_s is None:
            return waited_s > SLOW_S
        n_asked, before_s = self._seen.get(process, (0, 0.0))
        if n_asked != process.n_asked:
            self._seen[process] = process.n_asked, used_s
            return False
        return waited_s > (SLOW_S if used_s - before_s > SLOW_S / 2 else IDLE_SLOW_S)
