"""What a session asks to be decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from whisper_server.core.types import TranscribeParams
from whisper_server.services.realtime.agreement import Agreement

if TYPE_CHECKING:
    from whisper_server.core.types import Samples
    from whisper_server.services.realtime.drafts import Stretch


@dataclass(frozen=True, slots=True)
class Turn:
    """A complete turn, to be decoded."""

    item_id: str
    samples: Samples = field(repr=False)  # of the silence that ended it, no more than a little
    duration_s: float  # of all its sound
    params: TranscribeParams
    agreement: Agreement = field(repr=False)


@dataclass(frozen=True, slots=True)
class Partial:
    """A stretch of the open turn, to be decoded before its end."""

    stretch: Stretch
    samples: Samples = field(repr=False)
    params: TranscribeParams

    def is_of(self, turn: Turn) -> bool:
        """Tell whether its text is that of the turn."""
        mine = (self.stretch.item_id, len(self.samples), self.params)
        return self.stretch.is_whole and mine == (turn.item_id, len(turn.samples), turn.params)
