"""What is admitted: how many requests, how much audio and how many bytes of uploads there are at once.

Theory of operation. A request is admitted before its body is read, so that a busy server says so before
anything is uploaded, parsed or decoded. Its slot counts no audio until the file's header was read; then
what the header claims, less what is decoded, and more once more than that has been read: a file whose header
tells no length is counted as it is read, and refused where it turns out too long beside those of others.
Leaving returns everything.

Where memory runs short before the limit on uploads is reached, fewer of them are let in: what is left has to
be enough for reading those that are coming in, and for the work beside them. Bytes that are let in are taken
a moment later, so those that are on their way count too. Large uploads leave some memory, in which small
ones and live sessions find room beside them. One that is small and alone is always let in: what is measured
may be wrong, and a server that serves nobody is of no use. When a request leaves and memory is short, what
the allocator keeps of it goes back, so that the next one finds it.

How long a refused client should wait follows from the measured throughput. Limits are in seconds of audio,
which operators know; time is computed in steps. A step is 30 s of a file, the last of a file however short:
a clip of 3 s costs the device as much as one of 30 s, and a speed in seconds of audio would be ten times
too low for lectures after an hour of short clips. Silence that is left out makes steps cheap; the measured
throughput has that in it.

Knows nothing of HTTP, and has no clock but the one it is given. For the event loop only: nothing here
is locked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from whisper_server.core.errors import Overloaded
from whisper_server.core.types import WINDOW_S

MIN_RETRY_S = 1
MAX_RETRY_S = 60  # official clients wait no longer than that: told more, some come back at once
# Room that a declared length gets before its bytes are there. More would let clients that declare much and
# send little keep others out; with it, all slots of the default settings together hold half of the default
# limit.
LOOK_AHEAD_BYTES = 4 << 20
# What reading a body takes beside it, for a moment, at most: JSON with escapes and base64
# (tests/attack/test_memory.py has 2.5 of two bodies at once); and a form, whose file is copied once.
READING_FACTOR, FORM_READING_FACTOR = 3, 1
# For decoders, windows and the models' calls, beside uploads of others; beside one that is alone or small.
SPARE_BYTES, SPARE_ALONE_BYTES = 128 << 20, 48 << 20
OWN_BYTES = 4 << 20  # of one upload or live session, up to which it is small
SMALL_BYTES = 16 << 20  # of all uploads inside, up to which memory is asked for no more than this:
LEAST_BYTES = 96 << 20  # below which nobody is let in beside others: base, a second call and decoder process
NEW_BYTES, NEW_FOR_S = 4 << 20, 1.0  # that each one takes soon beside its upload; until it is measured
REFILL_BYTES = 256 << 20  # below which freed memory goes back: the largest upload by default needs 190 MB
MEASURED_FOR_S = 0.01  # free memory, which costs some ten microseconds
RECLAIMED_FOR_S = 1.0  # what was freed and kept: that blocks allocations for some milliseconds
UNTOLD_S = 300.0  # by which a file may be longer than its header says, without being asked for once more
MEMORY_S = 60.0  # busy time after which a measurement counts for a third


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be inside at once."""

    requests: int
    audio_s: float
    upload_bytes: int  # at least one largest body: a request is never refused for its own size


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """What is inside at one moment."""

    requests: int
    audio_s: float  # still to be decoded, as far as known
    upload_bytes: int
    limits: Limits
    steps: int = 0  # that this audio takes

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused, whatever it brings."""
        return (
            self.requests >= self.limits.requests
            or self.audio_s >= self.limits.audio_s
            or self.upload_bytes >= self.limits.upload_bytes
        )


class Slot:
    """The right of one request to be inside, and what it takes up; a context manager that leaves at its end.

    After an `Overloaded` all is as it was before the call; the slot still has to be left.
    """

    def __init__(
        self, admission: Admission, upload_bytes: int, reading_factor: int, entered_s: float
    ) -> None:
        self._admission = admission
        self.reading_factor = reading_factor
        self.declared_bytes = upload_bytes  # 0: it does not say
        self._received_bytes = 0
        self._kept_bytes: int | None = None  # None: the body is still coming in
        self._arriving_bytes = 0  # of a live session's events
        self.entered_s = entered_s
        self.expected_s = 0.0  # of audio; what the header claims, or what was read where that is more
        self._claimed_s = 0.0
        self.done_s = 0.0

    @property
    def left_s(self) -> float:
        """Seconds of audio still to be decoded, as far as known."""
        return max(0.0, self.expected_s - self.done_s)

    @property
    def left_steps(self) -> int:
        """Steps still to be done; one, as long as nothing is known of the audio."""
        return max(0, steps_of(self.expected_s) - steps_of(self.done_s)) if self.expected_s > 0 else 1

    @property
    def upload_bytes(self) -> int:
        """What is held of the body, and what has its room: what is declared, but not much further ahead."""
        if self._kept_bytes is not None:
            return self._kept_bytes + self._arriving_bytes
        return held_bytes(self._received_bytes, self.declared_bytes) + self._arriving_bytes

    @property
    def coming_bytes(self) -> int:
        """What will be taken yet for the body: its room that is empty, and what reading it takes."""
        if self._kept_bytes is not None:
            return 0
        held = held_bytes(self._received_bytes, self.declared_bytes)
        return held - self._received_bytes + self.reading_factor * held

    def receive(self, n_bytes: int) -> None:
        """Count bytes of the body; some of those that were declared have their room.

        Raises:
            Overloaded: with them, too many bytes would be inside.
        """
        received_bytes = self._received_bytes + n_bytes
        more_bytes = held_bytes(received_bytes, self.declared_bytes) - self.upload_bytes
        if more_bytes > 0:
            self._admission.check_bytes(more_bytes, self)
        self._received_bytes = received_bytes

    def keep(self, n_bytes: int) -> None:
        """Count what is kept of the body instead of it: it is complete, and the rest is forgotten."""
        self._kept_bytes = n_bytes

    def hold(self, n_bytes: int) -> None:
        """Count what a live session keeps of its sound now.

        Raises:
            Overloaded: it is more than there is room for.
        """
        more_bytes = n_bytes - (self.upload_bytes - self._arriving_bytes)
        if more_bytes > 0:
            self._admission.check_bytes(more_bytes, self)
        self._kept_bytes = n_bytes

    def arrive(self, n_bytes: int) -> None:
        """Count what is held of a live session's events, complete or not, that it has not done with.

        Raises:
            Overloaded: it is more than there is room for.
        """
        more_bytes = n_bytes - self._arriving_bytes
        if more_bytes > 0:
            self._admission.check_bytes(more_bytes, self)
        self._arriving_bytes = n_bytes

    def expect(self, audio_s: float) -> None:
        """Take the length that the audio claims, before it is decoded. Beside no other audio it always fits.

        Raises:
            Overloaded: with it, too much audio would be inside.
        """
        self._admission.check_audio(self, audio_s)
        self.expected_s = self._claimed_s = audio_s

    def progress(self, done_s: float, read_s: float = 0.0) -> None:
        """Note up to where, in file time, the audio is decoded and how much of it has been read.

        Raises:
            Overloaded: far more was read than the header claims, and with it too much audio would be inside.
        """
        if read_s > max(self.expected_s, self._claimed_s + UNTOLD_S):
            self._admission.check_audio(self, read_s - self.done_s)
        self._admission.count(max(0, steps_of(done_s) - steps_of(self.done_s)))
        self.expected_s = max(self.expected_s, done_s, read_s)
        self.done_s = max(self.done_s, done_s)

    def leave(self) -> None:
        """Give back everything that the request took up; once."""
        self._admission.leave(self)

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class Admission:
    """The requests inside, and the arithmetic of the limits; `clock` is any that runs forward, in seconds."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        throughput: Throughput | None = None,
        free_bytes: Callable[[], int | None] = lambda: None,
        reclaim: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the limits; without `throughput` it is what is measured here.

        `free_bytes` returns how much memory may still be taken, None where nobody knows; `reclaim` hands back
        what is kept for later, soon.
        """
        self._limits = limits
        self._clock = clock
        self._free_bytes = free_bytes
        self._reclaim = reclaim
        self._measured: tuple[float, int | None] = (-math.inf, None)  # when, and what was free
        self._reclaimed_s = -math.inf  # when that was
        self._slots: set[Slot] = set()
        self._throughput = throughput or Throughput()
        self._seen_s = 0.0  # when time was last accounted for
        self._refused = 0  # for want of a slot, less the slots given back since

    def state(self) -> AdmissionState:
        """Return what is inside."""
        return AdmissionState(
            len(self._slots),
            sum(slot.left_s for slot in self._slots),
            sum(slot.upload_bytes for slot in self._slots),
            self._limits,
            sum(slot.left_steps for slot in self._slots),
        )

    def retry_after_s(self) -> int:
        """Return the whole seconds until one more slot is free, behind the requests refused before."""
        mean = sum(slot.left_steps for slot in self._slots) / max(1, len(self._slots))
        return self._throughput.retry_after_s(mean * (self._refused + 1))

    def enter(self, upload_bytes: int = 0, reading_factor: int = READING_FACTOR) -> Slot:
        """Return a slot, with room for a body of this size, or for its beginning.

        Reading it takes `reading_factor` times as much beside it, for a moment.

        Raises:
            Overloaded: every slot is taken, or enough audio or too many bytes are inside.
        """
        self._advance()
        state = self.state()
        if state.requests >= self._limits.requests:
            raise self._full(f"{self._limits.requests} requests at once")
        if state.audio_s >= self._limits.audio_s:
            raise self._full(f"{self._limits.audio_s:.0f} seconds of waiting audio")
        slot = Slot(self, upload_bytes, reading_factor, self._seen_s)
        self.check_bytes(max(1, slot.upload_bytes), slot)  # one that does not say brings some, too
        n_new = sum(self._seen_s - each.entered_s < NEW_FOR_S for each in self._slots)
        if self._slots and self._lacks_memory(LEAST_BYTES + n_new * NEW_BYTES):
            raise self._full("there is memory for")
        self._slots.add(slot)
        return slot

    def check_bytes(self, more_bytes: int, slot: Slot) -> None:
        """Check that so many more bytes of uploads may come in for a slot, which may be one that is to be.

        Raises:
            Overloaded: with them, too many would be inside, or there is no memory for them.
        """
        self._advance()
        inside_bytes = self.state().upload_bytes
        if inside_bytes + more_bytes > self._limits.upload_bytes:
            raise self._full(f"{self._limits.upload_bytes // (1 << 20)} MiB of uploads")
        own_bytes = slot.upload_bytes if slot in self._slots else 0
        is_alone = inside_bytes == own_bytes
        is_small = max(own_bytes + more_bytes, slot.declared_bytes) <= OWN_BYTES
        spare_bytes = SPARE_ALONE_BYTES if is_alone or is_small else SPARE_BYTES
        coming_bytes = sum(each.coming_bytes for each in self._slots)
        coming_bytes += (1 + slot.reading_factor) * more_bytes
        if inside_bytes + more_bytes > SMALL_BYTES and self._lacks_memory(coming_bytes + spare_bytes):
            raise self._full("there is memory for")

    def _lacks_memory(self, wanted_bytes: int) -> bool:
        """Tell whether less is free; what is kept then goes back soon."""
        now_s = self._clock()
        if now_s - self._measured[0] > MEASURED_FOR_S:
            self._measured = now_s, self._free_bytes()
        free_bytes = self._measured[1]
        if free_bytes is None or free_bytes >= wanted_bytes:
            return False
        if now_s - self._reclaimed_s > RECLAIMED_FOR_S:
            self._reclaimed_s = now_s
            self._reclaim()
        return True

    def check_audio(self, slot: Slot, audio_s: float) -> None:
        """Check that the audio of this slot may be so long.

        Raises:
            Overloaded: beside that of other requests, it is too much.
        """
        self._advance()
        others_s = self.state().audio_s - slot.left_s
        over_s = others_s + audio_s - self._limits.audio_s
        if others_s > 0 and over_s > 0:
            steps = steps_of(min(over_s, others_s))
            raise Overloaded(
                f"This audio of {audio_s:.0f} seconds and that of other requests are more than the"
                f" {self._limits.audio_s:.0f} seconds that may wait at once. Try again later.",
                retry_after_s=self._throughput.retry_after_s(steps),
            )

    def count(self, steps: int) -> None:
        """Count steps that were done since the last call."""
        self._advance()
        self._throughput.gain(steps)

    def leave(self, slot: Slot) -> None:
        """Forget a slot."""
        self._advance()
        self._slots.remove(slot)
        # Not all refused clients come back; and when the last slot is free, none of them is waiting outside.
        self._refused = max(0, self._refused - 1) if self._slots else 0
        self._lacks_memory(REFILL_BYTES)

    def _advance(self) -> None:
        """Count the time since the last call as busy, if there was audio to decode."""
        now_s = self._clock()
        if any(slot.left_s > 0 for slot in self._slots):
            self._throughput.spend(max(0.0, now_s - self._seen_s))
        self._seen_s = now_s

    def _full(self, limit: str) -> Overloaded:
        retry_after_s = self.retry_after_s()
        self._refused += 1
        return Overloaded(
            f"The server is busy: it takes no more than {limit}. Try again in {retry_after_s} seconds.",
            retry_after_s=retry_after_s,
        )


class Throughput:
    """Steps done per second of busy time, the last minute of it counting most. Has no clock."""

    def __init__(self) -> None:
        # Until something was measured: a step a second, as if that had been seen for a second.
        self._steps = 1.0
        self._busy_s = 1.0

    @property
    def steps_per_s(self) -> float:
        """Steps per second of busy time."""
        return self._steps / self._busy_s

    def spend(self, busy_s: float) -> None:
        """Let busy time pass."""
        kept = math.exp(-busy_s / MEMORY_S)
        self._steps *= kept
        self._busy_s = self._busy_s * kept + MEMORY_S * (1.0 - kept)

    def gain(self, steps: int) -> None:
        """Count what was done in it."""
        self._steps += steps

    def retry_after_s(self, steps: float) -> int:
        """Return the whole seconds that so many steps take, within what clients accept."""
        if steps * self._busy_s >= MAX_RETRY_S * self._steps:
            return MAX_RETRY_S
        return max(MIN_RETRY_S, math.ceil(steps * self._busy_s / self._steps))


def held_bytes(received_bytes: int, declared_bytes: int) -> int:
    """Return the room of a body that is coming in."""
    return max(received_bytes, min(declared_bytes, received_bytes + LOOK_AHEAD_BYTES))


def steps_of(audio_s: float) -> int:
    """Return about how many times the device is asked for so much of a file."""
    return math.ceil(audio_s / WINDOW_S)
