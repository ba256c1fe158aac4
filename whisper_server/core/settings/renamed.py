"""Variables and flags of the release before that have other names now, and are still read under the old ones.

An old name has the rank of its source: flags win over the environment, and that over `.env`. Where the source
of an old name, or one above it, has the new name as well, the new one wins. Each old name is removed one
release after the one that renamed it. A part of `core.config`, which reads the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter


def _same(value: Any) -> Any:
    return value


def _zero_if_off(value: Any) -> Any:
    """Return 0 for a switch that is off, None for one that is on: that is the default."""
    return None if TypeAdapter(bool).validate_python(value) else 0


@dataclass(frozen=True, slots=True)
class Renamed:
    """An old name, and what it sets now."""

    old: str  # variable
    new: tuple[str, ...]  # variables
    difference: str = ""  # between the old value and the new one, in words
    is_switch: bool = False  # its flag has no value: `--name` or `--no-name`
    convert: Callable[[Any], Any] = _same  # the old value to the new one, None for none; raises ValueError

    @property
    def name(self) -> str:
        """The old name of the field: of its flag, with underscores."""
        return self.old.removeprefix("WHISPER_").lower()

    @property
    def notice(self) -> str:
        """One line for an operator who still uses the old name."""
        now = " and ".join(self.new) + (f" ({self.difference})" if self.difference else "")
        return f"{self.old} is an old name, which the next release does not read any more: use {now}"


# Of two that set the same, the first one wins.
RENAMED = (
    Renamed(
        "WHISPER_DECODE_PROCESS",
        ("WHISPER_DECODER_PROCESSES",),
        "0 for what was false",
        is_switch=True,
        convert=_zero_if_off,
    ),
    Renamed("WHISPER_DECODE_WORKERS", ("WHISPER_DECODER_PROCESSES", "WHISPER_AUDIO_THREADS")),
)


class OldValue(NamedTuple):
    """A value that was given under an old name."""

    renamed: Renamed
    value: Any
    targets: tuple[str, ...]  # the new variables that it sets: those that are not given themselves


def old_values(sources: Sequence[Mapping[str, Any]]) -> Iterator[OldValue]:
    """Yield what the sources have under old names; they map variables to values, the highest rank first."""
    for renamed in RENAMED:
        rank = next((rank for rank, source in enumerate(sources) if renamed.old in source), None)
        if rank is not None:
            given = {name for source in sources[: rank + 1] for name in source}
            targets = tuple(name for name in renamed.new if name not in given)
            yield OldValue(renamed, sources[rank][renamed.old], targets)
