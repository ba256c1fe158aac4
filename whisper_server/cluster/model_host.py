"""What a model replica does: it keeps models in memory, and decodes windows that fronts send.

Models, leases, batches, the fair order and the device are those of a single server; each request of a front
has one stream here, as long as windows of it are under way. Knows nothing of how calls travel.

For the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper_server.cluster.messages import Failure, ModelCard, WindowCall
from whisper_server.core.errors import WhisperServerError
from whisper_server.core.events import Events
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.types import Decoded
from whisper_server.services.container import local_models, watch_models
from whisper_server.services.loaded_models.speech_model import SpeechModel, WindowStream
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.model_manager import ModelState

if TYPE_CHECKING:
    from whisper_server.core.config import Settings


@dataclass(slots=True)
class _Shared:
    """A stream, and how many calls use it now."""

    stream: WindowStream
    users: int = 0


class ModelHost:
    """The models of one replica."""

    def __init__(self, settings: Settings, catalog: Catalog, events: Events) -> None:
        """Take the settings of this machine; nothing is loaded yet."""
        self._shutdown = Shutdown()
        self._catalog = catalog
        self._models = local_models(settings, events, self._shutdown)
        self._streams: dict[tuple[SpeechModel, str], _Shared] = {}
        self._slots = 0  # of the model that was lent last
        watch_models(events, self._models)

    def models(self) -> list[ModelState]:
        """Return what is in memory or on its way."""
        return self._models.loaded()

    @property
    def slots(self) -> int:
        """Windows that the device decodes at once; 0 until a model was loaded."""
        return self._slots

    @property
    def n_streams(self) -> int:
        """Requests of fronts that have windows here now."""
        return len(self._streams)

    async def describe(self, name: str) -> ModelCard | Failure:
        """Load a model where it is not there yet, and say what it is."""
        try:
            async with self._models.lease(self._catalog.resolve(name)) as model:
                info = model.engine.info
                self._slots = info.max_batch * info.workers
                return ModelCard(info, model.engine.tokenizer)
        except WhisperServerError as error:
            return Failure.of(error)

    async def decode(self, call: WindowCall) -> Decoded | Failure:
        """Decode one window; cancelled, it leaves the device."""
        try:
            async with self._models.lease(self._catalog.resolve(call.model)) as model:
                info = model.engine.info
                self._slots = info.max_batch * info.workers
                with self._stream(model, call) as stream:
                    return await asyncio.wrap_future(stream.submit(call.job, call.options))
        except WhisperServerError as error:
            return Failure.of(error)

    def close(self, timeout_s: float) -> None:
        """Give the memory back; blocks."""
        self._shutdown.drain()
        self._models.close(timeout_s)
        self._shutdown.close()

    @contextlib.contextmanager
    def _stream(self, model: SpeechModel, call: WindowCall) -> Iterator[WindowStream]:
        """Lend the stream of the call's request; the last one that uses it closes it."""
        key = (model, call.stream)
        shared = self._streams.get(key)
        if shared is None:
            opened = model.scheduler.open_stream(call.priority, is_live=call.is_live)
            shared = self._streams[key] = _Shared(opened)
        shared.users += 1
        try:
            yield shared.stream
        finally:
            shared.users -= 1
            if not shared.users:
                del self._streams[key]
                shared.stream.close()
