"""Who may come in: how many requests, how much audio and how many bytes of uploads there are at once.

Theory of operation. A request enters before its body is read, so that a server which has enough to do
says so before anything is uploaded, parsed or decoded. It expects no audio until its header was read;
then it counts for what the header claims, less what is decoded, and for more once more than that has
been read. Leaving returns everything.

Knows nothing of HTTP, and has no clock but the one it is given. For the event loop only: nothing here
is locked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from whisper_server.core.errors import Overloaded
from whisper_server.services.pace import Pace, steps_of


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be inside at once."""

    requests: int
    audio_s: float
    upload_bytes: int  # at least one largest body: a request is never refused for its own size


@dataclass(frozen=True, slots=True)
class QueueState:
    """What is inside."""

    requests: int
    audio_s: float  # still to be decoded, as far as known
    upload_bytes: int
    limits: Limits

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused, whatever it brings."""
        return (
            self.requests >= self.limits.requests
            or self.audio_s >= self.limits.audio_s
            or self.upload_bytes >= self.limits.upload_bytes
        )


@dataclass(eq=False, slots=True)
class Place:
    """What one request takes up."""

    upload_bytes: int = 0
    expected_s: float = 0.0  # of audio; what the header claims, or what was read where that is more
    done_s: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds of audio still to be decoded, as far as known."""
        return max(0.0, self.expected_s - self.done_s)

    @property
    def left_steps(self) -> int:
        """Steps still to be done; one, as long as nothing is known of the audio."""
        return max(0, steps_of(self.expected_s) - steps_of(self.done_s)) if self.expected_s > 0 else 1


class Backlog:
    """The requests inside, and the arithmetic of the limits; `now_s` is any clock that runs forward.

    After an `Overloaded` all is as it was before the call; a request that is inside still has to leave.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._inside: set[Place] = set()
        self._pace = Pace()
        self._seen_s = 0.0  # when time was last accounted for
        self._turned_away = 0  # for want of a place, less the places given back since

    def state(self) -> QueueState:
        """Return what is inside."""
        return QueueState(
            len(self._inside),
            sum(place.left_s for place in self._inside),
            sum(place.upload_bytes for place in self._inside),
            self.limits,
        )

    def retry_after_s(self) -> int:
        """Return when one more place is free, behind those that have been sent away before."""
        mean = sum(place.left_steps for place in self._inside) / max(1, len(self._inside))
        return self._pace.retry_after_s(mean * (self._turned_away + 1))

    def enter(self, now_s: float, upload_bytes: int = 0) -> Place:
        """Take a place, and room for a body of this size.

        Raises:
            Overloaded: every place is taken, or enough audio or too many bytes are inside.
        """
        self._advance(now_s)
        state = self.state()
        if state.requests >= self.limits.requests:
            raise self._full(f"{self.limits.requests} requests at once")
        if state.audio_s >= self.limits.audio_s:
            raise self._full(f"{self.limits.audio_s:.0f} seconds of waiting audio")
        self._check_bytes(state.upload_bytes + max(1, upload_bytes))  # one that does not say brings some, too
        place = Place(upload_bytes)
        self._inside.add(place)
        return place

    def hold(self, place: Place, now_s: float, upload_bytes: int) -> None:
        """Make room for the body as it turns out to be: it only grows.

        Raises:
            Overloaded: with it, too many bytes would be inside.
        """
        self._advance(now_s)
        more = upload_bytes - place.upload_bytes
        if more > 0:
            self._check_bytes(self.state().upload_bytes + more)
            place.upload_bytes = upload_bytes

    def expect(self, place: Place, now_s: float, audio_s: float) -> None:
        """Add its audio to what is to be done. Beside no other audio there is always room.

        Raises:
            Overloaded: with it, too much audio would be inside.
        """
        self._advance(now_s)
        others_s = self.state().audio_s - place.left_s
        over_s = others_s + audio_s - self.limits.audio_s
        if others_s > 0 and over_s > 0:
            steps = steps_of(min(over_s, others_s))
            raise Overloaded(
                f"This audio of {audio_s:.0f} seconds and that of other requests are more than the"
                f" {self.limits.audio_s:.0f} seconds that may wait at once. Try again later.",
                retry_after_s=self._pace.retry_after_s(steps),
            )
        place.expected_s = audio_s

    def progress(self, place: Place, now_s: float, done_s: float, read_s: float = 0.0) -> None:
        """Note up to where its audio is decoded, and how much of it has been read."""
        self._advance(now_s)
        place.expected_s = max(place.expected_s, done_s, read_s)
        if done_s > place.done_s:
            self._pace.gain(steps_of(done_s) - steps_of(place.done_s))
            place.done_s = done_s

    def leave(self, place: Place, now_s: float) -> None:
        """Give back everything that it took up."""
        self._advance(now_s)
        self._inside.remove(place)
        # Not all of them come back; where nobody is inside, nobody is waiting outside either.
        self._turned_away = max(0, self._turned_away - 1) if self._inside else 0

    def _advance(self, now_s: float) -> None:
        """Count the time since the last call as busy, if somebody's audio was being decoded."""
        if any(place.left_s > 0 for place in self._inside):
            self._pace.spend(max(0.0, now_s - self._seen_s))
        self._seen_s = now_s

    def _check_bytes(self, upload_bytes: int) -> None:
        if upload_bytes > self.limits.upload_bytes:
            raise self._full(f"{self.limits.upload_bytes // (1 << 20)} MiB of uploads")

    def _full(self, limit: str) -> Overloaded:
        retry_after_s = self.retry_after_s()
        self._turned_away += 1
        return Overloaded(
            f"The server is busy: it takes no more than {limit}. Try again in {retry_after_s} seconds.",
            retry_after_s=retry_after_s,
        )


class Slot:
    """The right of one request to be inside."""

    def __init__(self, backlog: Backlog, place: Place, clock: Callable[[], float]) -> None:
        self._backlog = backlog
        self._place = place
        self._clock = clock
        self._received_bytes = 0

    def receive(self, n_bytes: int) -> None:
        """Count bytes of the body; those that were declared have their room. Raises `Overloaded`."""
        self._received_bytes += n_bytes
        self._backlog.hold(self._place, self._clock(), self._received_bytes)

    def expect(self, audio_s: float) -> None:
        """Tell how long the audio claims to be, before it is decoded. Raises `Overloaded`."""
        self._backlog.expect(self._place, self._clock(), audio_s)

    def progress(self, done_s: float, read_s: float = 0.0) -> None:
        """Tell up to where, in file time, the audio is decoded and how much of it has been read."""
        self._backlog.progress(self._place, self._clock(), done_s, read_s)


class Admission:
    """The door: gives slots while there is room."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._backlog = Backlog(limits)
        self._clock = clock

    @contextlib.contextmanager
    def enter(self, upload_bytes: int = 0) -> Iterator[Slot]:
        """Let one request in; its place is given back with the end of the block. Raises `Overloaded`."""
        place = self._backlog.enter(self._clock(), upload_bytes)
        try:
            yield Slot(self._backlog, place, self._clock)
        finally:
            self._backlog.leave(place, self._clock())

    def state(self) -> QueueState:
        """Return what is inside."""
        return self._backlog.state()

    def retry_after_s(self) -> int:
        """Return the whole seconds until one more request may have a place."""
        return self._backlog.retry_after_s()
