"""How much work the audio of one request may be: processor time, filter graphs, packets, bytes.

One budget is shared by all decoders that a request opens, for its tracks and channels one after the other or
side by side. Owns the limits and the arithmetic; pure but for the clock. Must not know of libav or processes.

Valid files are far within: 48 kHz stereo takes up to 0.7 % of its length on one core, a broadcast changes its
format a few times an hour, and no packet lies in a file twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from whisper_server.core.errors import InvalidAudio

TOO_MUCH_WORK = (
    "The file cannot be decoded: it takes far more work than sound of its length. "
    "Convert it with another program."
)

BASE_CPU_S = 10.0
CPU_PER_SOUND = 0.05  # seconds for each second of sound
CPU_S_PER_BYTE = (
    0.05e-6  # for each byte of the file: of a film most bytes are pictures, which are read as well
)
BASE_GRAPHS = 100  # filter graphs, one for each change of rate, format or layout; one takes up to 50 ms
GRAPHS_PER_SOUND = 0.1
BASE_EMPTY_PACKETS = 50_000  # that fail or give no sample: 17 minutes of a damaged file, at 20 ms each
# Bytes of packets for each byte of the file: a table that names the same bytes again and again makes hours
# of seconds. Above 1 only for Matroska, whose tracks may be deflated.
PACKET_BYTES_PER_BYTE = 4
BASE_PACKET_BYTES = 256 << 10


@dataclass(slots=True)
class Spent:
    """What one decoder has done so far; of others where it stands in for them."""

    cpu_s: float = 0.0
    sound_s: float = 0.0
    graphs: int = 0
    empty_packets: int = 0
    full_packets: int = 0

    def fields(self) -> tuple[float, float, int, int, int]:
        """Return the numbers in order, as a message carries them."""
        return astuple(self)

    def set(self, cpu_s: float, sound_s: float, graphs: int, empty_packets: int, full_packets: int) -> None:
        """Take the numbers of `fields`."""
        self.cpu_s, self.sound_s, self.graphs = cpu_s, sound_s, graphs
        self.empty_packets, self.full_packets = empty_packets, full_packets


class Budget:
    """What all decoders of one request have spent together."""

    def __init__(self) -> None:
        self._spent: list[Spent] = []
        self.has_checked_tables = False  # `mp4_guard` has passed the file

    def share(self) -> Spent:
        """Return the account of one more decoder."""
        self._spent.append(Spent())
        return self._spent[-1]

    def besides(self, own: Spent) -> Spent:
        """Return the sum of all accounts but this one."""
        rows = [each.fields() for each in self._spent if each is not own]
        total = Spent()
        if rows:
            total.set(*(sum(column) for column in zip(*rows, strict=True)))
        return total


class Work:
    """Measures one decoder, on the thread that runs it, and stops it where the budget is spent."""

    def __init__(self, budget: Budget, size_bytes: int | None) -> None:
        """Take the file's size; None: it cannot be known, and `read_bytes` grows with what is read."""
        self._budget = budget
        self.spent = budget.share()
        self._others = Spent()
        self._started_s = 0.0
        self._before_s = 0.0
        self._packet_bytes = 0
        self.file_bytes = size_bytes or 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the processor time of this thread in the block."""
        self._others = self._budget.besides(self.spent)
        self._before_s, self._started_s = self.spent.cpu_s, time.thread_time()
        try:
            yield
        finally:
            self._count_time()

    @property
    def left_s(self) -> float:
        """Processor seconds that are left."""
        own, others = self.spent, self._others
        sound_s = own.sound_s + others.sound_s
        allowed_s = BASE_CPU_S + CPU_PER_SOUND * sound_s + CPU_S_PER_BYTE * self.file_bytes
        return allowed_s - own.cpu_s - others.cpu_s

    def packet(self, n_bytes: int, n_samples: int) -> None:
        """Count a packet and what came out of it; inside of `measured`.

        Raises:
            InvalidAudio: the budget is spent.
        """
        own, others = self.spent, self._others
        if n_samples:
            own.full_packets += 1
        else:
            own.empty_packets += 1
        self._packet_bytes += n_bytes
        self._count_time()
        empty = own.empty_packets + others.empty_packets
        if (
            self.left_s < 0
            or empty > BASE_EMPTY_PACKETS + own.full_packets + others.full_packets
            or self._packet_bytes > BASE_PACKET_BYTES + PACKET_BYTES_PER_BYTE * self.file_bytes
        ):
            raise InvalidAudio(TOO_MUCH_WORK)

    def graph(self) -> None:
        """Count a filter graph that is about to be made.

        Raises:
            InvalidAudio: there were too many.
        """
        own, others = self.spent, self._others
        own.graphs += 1
        if own.graphs + others.graphs > BASE_GRAPHS + GRAPHS_PER_SOUND * (own.sound_s + others.sound_s):
            raise InvalidAudio(TOO_MUCH_WORK)

    def _count_time(self) -> None:
        self.spent.cpu_s = self._before_s + time.thread_time() - self._started_s
