"""A file in, one transcription out: of the file as a whole, or one per channel.

Owns what happens before a model is loaded: the header is read, the audio admitted, its channels compared.
Must not know how audio becomes text: `transcription` does that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from whisper_server.core.errors import NotByChannel
from whisper_server.core.types import (
    AudioInfo,
    DecodeOptions,
    ModelSource,
    TrackChoice,
    TranscribeParams,
    Transcript,
)
from whisper_server.services.audio.memory_stream import MemoryStream
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.by_voice import ByVoice, Overheard
from whisper_server.services.channels import check_channels, open_channels
from whisper_server.services.language_detection import Detection, Stretch, detect_language
from whisper_server.services.text_alignment import QUICKLY, TextAlignment
from whisper_server.services.transcription import SampleStream, SegmentSource, Transcription

if TYPE_CHECKING:
    from whisper_server.core.types import Samples
    from whisper_server.services.audio.budget import Budget
    from whisper_server.services.audio_processor import AudioProcessor, AudioSource
    from whisper_server.services.loaded_models.speech_model import SpeechModel
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.scheduling.remembered import DecodedMemory
    from whisper_server.services.speaker_turns import SpeakerTurns
    from whisper_server.services.work_pool import WorkPool

DRAFTED = DecodeOptions(beam_size=1, temperatures=(0.0,), is_draft=True)


class Transcriber:
    """Turns audio into segments with the services it was given."""

    def __init__(
        self,
        audio: AudioProcessor,
        models: ModelManager[SpeechModel],
        pool: WorkPool,
        speakers: SpeakerTurns,
        *,
        beam_size: int = 5,
        use_vad: bool = True,
        switches_language: bool = True,
    ) -> None:
        self._audio = audio
        self._models = models
        self._pool = pool
        self._speakers = speakers
        self._beam_size = beam_size
        self._use_vad = use_vad
        self._switches_language = switches_language

    async def open(
        self,
        source: AudioSource,
        params: TranscribeParams,
        admit: Callable[[AudioInfo], None] = lambda _: None,
        on_read: Callable[[float], None] = lambda _: None,
        memory: DecodedMemory | None = None,
    ) -> SegmentSource:
        """Open the audio; nothing is loaded, and only channels are compared.

        `admit` is called once, when the header is known and before anything is decoded; what it raises is
        raised here, and the file is closed. `on_read` is told the seconds that were read so far where the
        channels are compared; what it raises, too. Windows that `memory` knows are not decoded.

        How often a file is read: once, and its samples as windows are pulled. Where speakers are told apart,
        its channels are compared before, which reads all of it, as it must have measured all before a
        segment may be kept; and then once per channel, because channels are as far apart as their pauses
        make them. A file with one channel, and one of whose voices something is known, is read once.

        Raises:
            InvalidRequest: speakers are to be told apart, and neither channels nor networks can tell; or a
                sample of a voice is of no use.
            InvalidAudio: the source is no audio, or one we do not read.
            UnknownTrack: it has no audio track of the number that was asked for.
            PayloadTooLarge: the source is larger than the limit.
        """
        stream = await self._open(source, TrackChoice(params.audio_track, params.language))
        try:
            admit(stream.info)
            if params.speakers is None:
                return self._transcription(stream, params, memory)
            if params.voices.are_given or hasattr(source, "read"):  # which cannot be read several times
                return await self._by_voice(stream, params, memory)
            try:
                return await self._by_channel(stream, source, params, on_read, memory)
            except NotByChannel as error:
                stream.close()
                stream = await self._open(source, TrackChoice(stream.info.track), None, stream.budget)
                return await self._by_voice(stream, params, memory, error)
        except BaseException:
            stream.close()
            raise

    async def _by_channel(
        self,
        stream: AudioStream,
        source: AudioSource,
        params: TranscribeParams,
        on_read: Callable[[float], None],
        memory: DecodedMemory | None,
    ) -> SegmentSource:
        """Open a transcription per channel; raises `NotByChannel` where they are not the speakers."""
        assert params.speakers is not None
        await self._settle(stream)
        check_channels(stream.info.channels)
        track = TrackChoice(stream.info.track)
        # What has no voice on one channel is often the voice of another, picked up from afar.
        of_channel = replace(params, vad=replace(params.vad, keeps_sound=False))

        async def open_one(channel: int) -> Transcription:
            opened = await self._open(source, track, channel, stream.budget)
            return self._transcription(opened, of_channel, memory)

        return await open_channels(stream, params.speakers, self._pool, open_one, on_read)

    async def _by_voice(
        self,
        stream: AudioStream,
        params: TranscribeParams,
        memory: DecodedMemory | None,
        by_channel: NotByChannel | None = None,
    ) -> SegmentSource:
        """Open one transcription and what tells its speakers apart; `by_channel` says why that is needed."""
        known = await self._speakers.known(params.speakers or (), params.voices, by_channel)
        audio = Overheard(stream)
        return ByVoice(
            self._transcription(audio, replace(params, word_timestamps=True), memory),
            audio,
            params.word_timestamps,
            self._speakers.lease,
            lambda networks: networks.diarizer(known.count, known.voices),
            self._pool,
        )

    def open_samples(
        self, samples: Samples, params: TranscribeParams, *, is_draft: bool = False
    ) -> Transcription:
        """Open sound that is in memory, float32 [n] at 16 kHz mono.

        A draft, which another decode of the same sound will replace, gets one greedy attempt a window, and
        its words have times.
        """
        if not is_draft:
            return self._transcription(MemoryStream(samples), params)
        timed = replace(params, word_timestamps=True, language_switching=False)
        transcription = self._transcription(MemoryStream(samples), timed)
        transcription.options = DRAFTED
        return transcription

    async def align(
        self,
        source: AudioSource,
        text: str,
        params: TranscribeParams,
        admit: Callable[[AudioInfo], None] = lambda _: None,
    ) -> SegmentSource:
        """Open the audio, to find out when each word of a text is said in it; `admit` is as for `open`.

        Raises:
            InvalidAudio: the source is no audio, or one we do not read.
            UnknownTrack: it has no audio track of the number that was asked for.
            PayloadTooLarge: the source is larger than the limit.
        """
        stream = await self._open(source, TrackChoice(params.audio_track, params.language))
        try:
            admit(stream.info)
        except BaseException:
            stream.close()
            raise
        heard = Transcription(stream, params, QUICKLY, self._models, self._pool, self._use_vad)
        return TextAlignment(heard, text, self._pool)

    def listen(
        self, stream: SampleStream, params: TranscribeParams, *, greedy_below_s: float = 0.0
    ) -> SegmentSource:
        """Transcribe samples as they come in; nothing is read or loaded yet. Closes the stream at its end.

        Windows shorter than `greedy_below_s` are decoded with one hypothesis in place of a beam.
        """
        transcription = self._transcription(stream, params)
        transcription.greedy_below_s = greedy_below_s
        return transcription

    async def language_of(
        self, audio: SampleStream, source: ModelSource, stretch: Stretch | None = None
    ) -> Detection:
        """Tell which language a recording is in, and close it; raises what `Transcription.segments` does."""
        try:
            async with self._models.lease(source) as model:
                return await detect_language(audio, model, self._pool, stretch or Stretch())
        finally:
            audio.close()

    def is_room_wanted(self) -> bool:
        """Tell whether a request waits for room for its model; work that can wait had better give way."""
        return self._models.is_room_wanted()

    async def transcribe(self, source: AudioSource, params: TranscribeParams) -> Transcript:
        """Transcribe a whole file; `Transcription.segments` says what may be raised."""
        transcription = await self.open(source, params)
        return await transcription.collect()

    async def _open(
        self,
        source: AudioSource,
        choice: TrackChoice,
        channel: int | None = None,
        budget: Budget | None = None,
    ) -> AudioStream:
        # A caller that is cancelled meanwhile must not leave the opened stream behind.
        return await self._pool.run(
            self._audio.open, source, channel, choice, budget, unclaimed=AudioStream.close
        )

    async def _settle(self, stream: AudioStream) -> None:
        """Find out which of several tracks is heard."""
        steps = self._pool.iterate(stream.settle())
        async with contextlib.aclosing(steps):  # type: ignore[type-var]
            async for _ in steps:
                pass

    def _transcription(
        self, stream: SampleStream, params: TranscribeParams, memory: DecodedMemory | None = None
    ) -> Transcription:
        options = DecodeOptions(beam_size=self._beam_size)
        if params.temperature > 0:
            options = replace(options, temperatures=(params.temperature,))
        asked = params.language_switching
        switches = self._switches_language if asked is None else asked
        return Transcription(
            stream, params, options, self._models, self._pool, self._use_vad, switches, memory
        )
