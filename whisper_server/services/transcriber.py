"""A model's name and a file in, one transcription out: the file's own, or one per channel.

Owns the order of the checks before a model is loaded. Must not know how audio becomes text: `transcription`
does that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from whisper_server.core.types import DecodeOptions, TranscribeParams, Transcript
from whisper_server.services import channels
from whisper_server.services.audio_processor import AudioStream
from whisper_server.services.transcription import Transcription

if TYPE_CHECKING:
    from whisper_server.services.audio_processor import AudioProcessor, AudioSource
    from whisper_server.services.loaded_models.loader import WhisperModel
    from whisper_server.services.model_files.catalog import Catalog
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.work_pool import WorkPool


class Transcriber:
    """Turns audio into segments with the services it was given."""

    def __init__(
        self,
        audio: AudioProcessor,
        catalog: Catalog,
        models: ModelManager[WhisperModel],
        pool: WorkPool,
        *,
        beam_size: int = 5,
        use_vad: bool = True,
    ) -> None:
        self._audio = audio
        self._catalog = catalog
        self._models = models
        self._pool = pool
        self._beam_size = beam_size
        self._use_vad = use_vad

    async def open(
        self, source: AudioSource, params: TranscribeParams
    ) -> Transcription | channels.Conversation:
        """Check the model's name, then the audio; nothing is loaded, and only channels are compared.

        Raises:
            InvalidRequest: the channels are to be speakers, and the audio has no two that differ.
            ModelNotFound: nobody configured that name.
            InvalidAudio: the source is no audio, or one we do not read.
            PayloadTooLarge: the source is larger than the limit.
        """
        self._catalog.resolve(params.model)

        async def line(channel: int | None = None) -> Transcription:
            # A caller that is cancelled meanwhile must not leave the opened stream behind.
            stream = await self._pool.run(self._audio.open, source, channel, unclaimed=AudioStream.close)
            options = self._options(params)
            return Transcription(stream, params, self._models, self._pool, options, self._use_vad)

        if params.speakers is None:
            return await line()
        assert not hasattr(source, "read"), "a file object cannot be read by several at once"
        return await channels.converse(await line(), params.speakers, self._pool, line)

    async def transcribe(self, source: AudioSource, params: TranscribeParams) -> Transcript:
        """Transcribe a whole file; `Transcription.segments` says what may be raised."""
        transcription = await self.open(source, params)
        return await transcription.collect()

    def _options(self, params: TranscribeParams) -> DecodeOptions:
        options = DecodeOptions(beam_size=self._beam_size)
        return replace(options, temperatures=(params.temperature,)) if params.temperature > 0 else options
