"""Which models have to go so that another one fits: the least recently used ones that are unused.

Pure functions over what is in memory; no lock, thread or clock. No model goes in vain: where all that may go
would not make enough room, the answer is no, and everything stays.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from whisper_server.core.errors import ModelTooLarge, NoRoomForModel

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Occupant(Generic[K]):
    """A model in memory, or on its way."""

    key: K
    size_bytes: int  # measured, or expected while it loads
    may_go: bool  # it has no lease, no waiter and no load
    takes_place: bool = True


@dataclass(frozen=True, slots=True)
class Room:
    """What the operator gives to models."""

    places: int
    size_bytes: int = 0  # 0: as much as there is

    def check_size(self, name: str, size_bytes: int) -> None:
        """Check that the model fits if nothing else is there; raises `ModelTooLarge`."""
        if self.size_bytes and size_bytes > self.size_bytes:
            size_mb, limit_mb = size_bytes / 2**20, self.size_bytes / 2**20
            raise ModelTooLarge(
                f"The model {name!r} takes {size_mb:.0f} MiB of memory and WHISPER_MAX_MODEL_MEMORY_MB is"
                f" {limit_mb:.0f}. Use a smaller model, or raise it on the server."
            )

    def refusal(self, name: str) -> NoRoomForModel:
        """Return the error for a model that does not fit beside those in use."""
        limits, settings = f"all {self.places} places are", "WHISPER_MAX_MODELS"
        if self.size_bytes:
            limits = f"the {self.places} places or {self.size_bytes / 2**20:.0f} MiB for models are"
            settings += " or WHISPER_MAX_MODEL_MEMORY_MB"
        return NoRoomForModel(
            f"The model {name!r} cannot be loaded now: {limits} taken by models in use."
            f" Try again later, or raise {settings}."
        )

    def holds(self, count: int, size_bytes: int) -> bool:
        """Tell whether so many models of so many bytes together fit."""
        return count <= self.places and (not self.size_bytes or size_bytes <= self.size_bytes)


def victims(there: Sequence[Occupant[K]], room: Room, size_bytes: int) -> list[K] | None:
    """Return which models go for a newcomer of `size_bytes`; None where it would not fit all the same.

    `there` is every model but the newcomer, the least recently used first.
    """
    count, total_bytes = sum(one.takes_place for one in there) + 1, _total(there) + size_bytes
    going: list[K] = []
    for one in there:
        if room.holds(count, total_bytes):
            break
        if one.may_go:
            going.append(one.key)
            count, total_bytes = count - one.takes_place, total_bytes - one.size_bytes
    return going if room.holds(count, total_bytes) else None


def _total(there: Iterable[Occupant[K]]) -> int:
    return sum(one.size_bytes for one in there)
