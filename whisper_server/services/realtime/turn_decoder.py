"""Sound of one session -> transcripts, with a model that stays loaded while somebody speaks.

Owns the model's lease; must not know when what is decoded, or what becomes of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from whisper_server.services.transcription import LeasedModel

if TYPE_CHECKING:
    from whisper_server.core.types import ModelSource, Samples, TranscribeParams, Transcript
    from whisper_server.services.loaded_models.speech_model import SpeechModel
    from whisper_server.services.model_manager import ModelManager
    from whisper_server.services.transcriber import Transcriber
    from whisper_server.services.transcription import Transcription


class Decoder(Protocol):
    """What a conversation needs of it."""

    async def turn(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode a whole turn, float32 [n] at 16 kHz; raises what `Transcription.segments` does."""
        ...

    async def draft(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode an open turn quickly; where this is cancelled, its windows leave the device."""
        ...

    async def early(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode what may be a whole turn as `turn` does; where this is cancelled, it leaves the device."""
        ...

    async def give_back(self) -> None:
        """Let the model go, until the next decode."""
        ...


class TurnDecoder(Decoder):
    """Decodes with the pipeline of uploads."""

    def __init__(self, transcriber: Transcriber, models: ModelManager[SpeechModel]) -> None:
        self._transcriber = transcriber
        self._models = models
        self._stack = contextlib.AsyncExitStack()
        self._source: ModelSource | None = None
        self._leased: LeasedModel | None = None

    async def turn(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode a whole turn, float32 [n] at 16 kHz; raises what `Transcription.segments` does."""
        opened = self._transcriber.open_samples(samples, params)
        with contextlib.closing(opened.audio):
            return await _collected(opened, await self._take(params))

    async def draft(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode an open turn quickly; where this is cancelled, its windows leave the device."""
        return await self._on_its_own(self._transcriber.open_samples(samples, params, is_draft=True))

    async def early(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode what may be a whole turn as `turn` does; where this is cancelled, it leaves the device."""
        return await self._on_its_own(self._transcriber.open_samples(samples, params))

    async def _on_its_own(self, opened: Transcription) -> Transcript:
        with contextlib.closing(opened.audio):
            model = (await self._take(opened.params)).model
            with model.scheduler.open_stream(opened.params.priority) as stream:
                return await _collected(opened, LeasedModel(model, stream))

    async def give_back(self) -> None:
        """Let the model go, until the next decode."""
        self._leased = None
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await stack.aclose()

    async def _take(self, params: TranscribeParams) -> LeasedModel:
        if self._leased is None or self._source != params.model:
            await self.give_back()
            model = await self._stack.enter_async_context(self._models.lease(params.model))
            stream = self._stack.enter_context(model.scheduler.open_stream(params.priority, is_live=True))
            self._leased, self._source = LeasedModel(model, stream), params.model
        return self._leased


async def _collected(opened: Transcription, leased: LeasedModel) -> Transcript:
    async with contextlib.aclosing(opened.segments(leased)) as segments:
        return opened.transcript(tuple([segment async for segment in segments]))
