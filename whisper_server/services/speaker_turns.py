"""Who speaks when in a recording, without its text; and what is known of its speakers before it is heard.

Lends the networks to whoever has a recording, and says how to have them where they are missing. Must not
know how voices are told apart: `speakers` does that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.errors import (
    InvalidAudio,
    InvalidRequest,
    ModelUnavailable,
    NotByChannel,
    PayloadTooLarge,
)
from whisper_server.core.types import SAMPLE_RATE, Turn, VoiceOptions
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.speakers.clustering import SpeakerCount
from whisper_server.services.speakers.diarizer import Diarizer, KnownVoice
from whisper_server.services.speakers.loaded import SPEAKERS, SpeakerNetworks

if TYPE_CHECKING:
    from whisper_server.core.types import Samples
    from whisper_server.services.audio_processor import AudioProcessor
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.work_pool import WorkPool

MIN_REFERENCE_S, MAX_REFERENCE_S = 2.0, 10.0  # of the hosted API
_TOLERANCE_S = 0.1  # by which coded sound is longer than what went in


@dataclass(frozen=True, slots=True)
class KnownSpeakers:
    """How many speakers there may be, and those who are known."""

    count: SpeakerCount
    voices: tuple[KnownVoice, ...]


class SpeakerTurns:
    """Tells speakers apart by voice."""

    def __init__(
        self, audio: AudioProcessor, networks: ModelManager[SpeakerNetworks], pool: WorkPool
    ) -> None:
        self._audio = audio
        self._networks = networks
        self._pool = pool

    def lease(self) -> AbstractAsyncContextManager[SpeakerNetworks]:
        """Lend both networks to a block, loading them where needed; raises as `ModelManager.lease`."""
        return self._networks.lease(SPEAKERS)

    async def known(
        self, names: Sequence[str], voices: VoiceOptions, by_channel: NotByChannel | None = None
    ) -> KnownSpeakers:
        """Return what is known of the speakers, and see to it that the networks are there.

        Raises:
            InvalidRequest: they are not, and `by_channel` says what would do without; a sample is no sound of
                2 to 10 s; or there are names and no samples of them.
        """
        if len(voices.references) != len(names):
            raise InvalidRequest(
                "Names alone do not say who speaks in this recording: its speakers are told apart by voice. "
                "Send a sample of each voice, 2 to 10 s, in known_speaker_references.",
                param="known_speaker_references",
            )
        try:
            async with self.lease() as networks:
                found = []
                for number, (name, data) in enumerate(zip(names, voices.references, strict=True), 1):
                    samples = await self._sample(data, number)
                    voice = await self._pool.run(networks.known_voice, name, samples)
                    if voice is None:
                        raise _wrong_sample(number, "has no voice in it")
                    found.append(voice)
        except ModelUnavailable as error:
            before = "" if by_channel is None else f"{by_channel} "
            raise InvalidRequest(
                f"{before}Speakers of any other recording are told apart by voice, for which two networks "
                f"are needed (docs/speakers.md): {error}",
                param="response_format",
            ) from error
        return KnownSpeakers(SpeakerCount(voices.least, voices.most), tuple(found))

    async def of(
        self, stream: AudioStream, known: KnownSpeakers, on_read: Callable[[float], None] = lambda _: None
    ) -> list[Turn]:
        """Return who speaks when in a recording, and close it; `on_read` is told the seconds read so far.

        Raises what reading it does.
        """
        with stream:
            async with self.lease() as networks:
                diarizer = networks.diarizer(known.count, known.voices)
                steps = self._pool.iterate(_heard(stream, diarizer))
                async with contextlib.aclosing(steps):  # type: ignore[type-var]
                    async for _ in steps:
                        on_read(diarizer.position_s)
                return await self._pool.run(diarizer.turns)

    async def _sample(self, data: bytes, number: int) -> Samples:
        """Return the sound of a sample of a voice, float32 [n]."""
        try:
            stream = await self._pool.run(self._audio.open, data, unclaimed=AudioStream.close)
            samples = await self._pool.run(_beginning, stream)
        except (InvalidAudio, PayloadTooLarge) as error:
            raise _wrong_sample(number, f"cannot be read: {error}") from error
        seconds = len(samples) / SAMPLE_RATE
        if not MIN_REFERENCE_S - _TOLERANCE_S <= seconds <= MAX_REFERENCE_S + _TOLERANCE_S:
            is_long = seconds > MAX_REFERENCE_S
            raise _wrong_sample(number, "is longer than 10 s" if is_long else f"has {seconds:.1f} s")
        return samples


def _wrong_sample(number: int, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"known_speaker_references number {number} {reason}. Send 2 to 10 s of the voice, as a data: URL.",
        param="known_speaker_references",
    )


def _beginning(stream: AudioStream) -> Samples:
    """Return a little more of a recording than a sample may have, and close it."""
    most = int((MAX_REFERENCE_S + 1) * SAMPLE_RATE)
    found: list[Samples] = []
    with stream:
        for block in stream.blocks():
            found.append(block)
            if sum(map(len, found)) > most:
                break
    return np.concatenate(found)[:most]


def _heard(stream: AudioStream, diarizer: Diarizer) -> Generator[None, None, None]:
    """Let a diarizer hear a recording, a block per step; runs on the pool."""
    for _ in stream.settle():
        yield
    for block in stream.blocks():
        diarizer.add(block)
        yield
    diarizer.catch_up()
