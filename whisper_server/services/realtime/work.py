"""What a session asks to be decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from whisper_server.core.types import SAMPLE_RATE, TranscribeParams
from whisper_server.services.realtime.agreement import Agreement

if TYPE_CHECKING:
    from whisper_server.core.types import Samples


@dataclass(frozen=True, slots=True)
class Turn:
    """A complete turn, to be decoded."""

    item_id: str
    samples: Samples = field(repr=False)
    params: TranscribeParams
    agreement: Agreement = field(repr=False)

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Partial:
    """The open turn as far as it goes, without what is settled, to be decoded for its words so far."""

    item_id: str
    samples: Samples = field(repr=False)
    params: TranscribeParams
    start_s: float  # in seconds of the turn
    end: int  # position in the session
