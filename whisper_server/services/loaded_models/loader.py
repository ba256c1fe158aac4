"""A model's name becomes a model in memory: download, convert, load, and a scheduler on top."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from whisper_server.core.events import Events
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.system.allocator import return_memory
from whisper_server.services.decoding.short_context import ContextDecoder
from whisper_server.services.decoding.window_decoder import WindowDecoder
from whisper_server.services.engines.base import Engine
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.loaded_models.speech_model import notes_of
from whisper_server.services.model_files.prepare import local_folder, spec_of
from whisper_server.services.scheduling.batch import DecodeBatch
from whisper_server.services.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.core.types import ModelSource

log = logging.getLogger(__name__)


def decoder_of(engine: Engine) -> DecodeBatch:
    """Return what decodes windows with an engine: Whisper's rules, over no more context than it needs."""
    return ContextDecoder(WindowDecoder(engine).decode, engine.info.silence_s).decode


class WhisperModel:
    """One loaded model and everything that works for it alone."""

    def __init__(
        self,
        name: str,
        load: Callable[[], Engine],
        *,
        batch_timeout_s: float = math.inf,
        events: Events | None = None,
        shutdown: Shutdown | None = None,
    ) -> None:
        """Load the engine with `load`, which is called again where the engine is lost; blocks."""
        self.name = name
        self.engine = load()
        self._load = load
        info = self.engine.info
        self.scheduler = Scheduler(
            decoder_of(self.engine),
            max_batch=info.max_batch,
            workers=info.workers,
            reload=self._reload,
            batch_timeout_s=batch_timeout_s,
            name=name,
            events=events,
            shutdown=shutdown,
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of its weights, and of what calls work with at the busiest moment."""
        return self.engine.info.memory_bytes + self.engine.info.working_bytes

    @property
    def engine_notes(self) -> dict[str, Any]:
        """What runs it and how, for /health and /v1/models."""
        return notes_of(self.engine.info)

    @property
    def is_degraded(self) -> bool:
        """Whether its engine was lost and is being reloaded."""
        return self.scheduler.is_degraded

    @property
    def is_broken(self) -> bool:
        """Whether its engine was lost for good; only another load helps."""
        return self.scheduler.is_broken

    def drain(self) -> None:
        """Refuse requests that have not begun, now and from now on; does not block."""
        self.scheduler.drain()

    def close(self) -> None:
        """Refuse what waits, finish what runs, give the memory back; blocks."""
        self.scheduler.close()
        self.engine.close()

    def _reload(self) -> DecodeBatch:
        # The old engine may hang in a call: it is let go, not closed, and ends with that call.
        self.engine = self._load()
        return decoder_of(self.engine)


class ModelLoader:
    """Loads what the settings describe; the callable that the model manager uses."""

    def __init__(
        self, settings: Settings, events: Events | None = None, shutdown: Shutdown | None = None
    ) -> None:
        self._settings = settings
        self._events = events
        self._shutdown = shutdown

    def __call__(self, source: ModelSource) -> WhisperModel:
        """Download if needed, convert if needed, load; blocks.

        Raises:
            ModelUnavailable: the hub cannot be reached, or the files are no model for this engine.
        """
        batch_timeout_s = self._settings.batch_timeout_s or math.inf
        return WhisperModel(
            source.name,
            lambda: self._load(source),
            batch_timeout_s=batch_timeout_s,
            events=self._events,
            shutdown=self._shutdown,
        )

    def _load(self, source: ModelSource) -> Engine:
        started = time.monotonic()
        settings = self._settings
        folder = local_folder(source, settings)
        spec, reason = spec_of(settings)
        engine = load_engine(folder, spec, settings.cache_dir)
        return_memory()  # a first load has converted the weights, and held them twice
        info = engine.info
        log.info(
            "model %s loaded in %.2f s: engine=%s (%s) device=%s compute_type=%s max_batch=%d workers=%d%s",
            source.name,
            time.monotonic() - started,
            info.engine,
            reason,
            info.device,
            info.compute_type,
            info.max_batch,
            info.workers,
            "".join(f"; {note}" for note in info.notes),
        )
        return engine
