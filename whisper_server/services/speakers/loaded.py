"""The networks for speakers in memory, lent to requests as models are; and a diarizer for each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whisper_server.core.types import ModelSource
from whisper_server.services.speakers.clustering import SpeakerCount
from whisper_server.services.speakers.diarizer import Diarizer, KnownVoice
from whisper_server.services.speakers.networks import SegmentationNetwork, VoiceEncoder
from whisper_server.services.speakers.segmentation import NetworkSegmentation, VoiceSegmentation
from whisper_server.services.speakers.weights import NONE, network_file

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.core.types import Samples

SPEAKERS = ModelSource("speakers")  # what the manager calls both networks


@dataclass(frozen=True, slots=True)
class SpeakerNetworks:
    """Both networks; any number of files may use them at once."""

    encoder: VoiceEncoder
    segmentation: SegmentationNetwork | None  # None: voice detection has to do
    threshold: float
    memory_bytes: int

    is_degraded = False
    is_broken = False

    @property
    def engine_notes(self) -> dict[str, Any]:
        """Say how turns are found."""
        return {"segmentation": "voice detection" if self.segmentation is None else "network"}

    def drain(self) -> None:
        """Do nothing: a file is a request's, which is refused where it begins."""

    def close(self) -> None:
        """Do nothing: the memory goes with the last reference."""

    def diarizer(self, count: SpeakerCount, known: Sequence[KnownVoice] = ()) -> Diarizer:
        """Return what tells the speakers of one file apart."""
        segmentation = (
            VoiceSegmentation() if self.segmentation is None else NetworkSegmentation(self.segmentation)
        )
        return Diarizer(segmentation, self.encoder, self.threshold, count, known)

    def known_voice(self, name: str, samples: Samples) -> KnownVoice | None:
        """Return whose voice speaks in some sound, float32 [n]; None where nobody does."""
        diarizer = self.diarizer(SpeakerCount(1, 1))
        diarizer.add(samples)
        diarizer.catch_up()
        voice = diarizer.voice()
        return None if voice is None else KnownVoice(name, voice)


def load_networks(settings: Settings) -> SpeakerNetworks:
    """Load both networks, downloading them where needed; blocks.

    Raises:
        ModelUnavailable: one is not there or cannot be used.
    """
    encoder = network_file(settings.speaker_encoder, settings)
    files = [encoder]
    segmentation = None
    if settings.speaker_segmentation.lower() != NONE:
        files.append(network_file(settings.speaker_segmentation, settings))
        segmentation = SegmentationNetwork(files[-1])
    return SpeakerNetworks(
        VoiceEncoder(encoder),
        segmentation,
        settings.speaker_threshold,
        sum(file.stat().st_size for file in files),
    )
