"""A model's name becomes a model in memory: download, convert, load, and a scheduler on top."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_server.services.decoding import WindowDecoder
from whisper_server.services.engines.base import Engine, EngineSpec
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.scheduler import Scheduler

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.services.catalog import ModelSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WhisperModel:
    """One loaded model and everything that works for it alone."""

    name: str
    engine: Engine
    scheduler: Scheduler

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights in memory."""
        return self.engine.info.memory_bytes

    def close(self) -> None:
        """Refuse what waits, finish what runs, give the memory back; blocks."""
        self.scheduler.close()
        self.engine.close()


class ModelLoader:
    """Loads what the settings describe; the callable that the model manager uses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, source: ModelSource) -> WhisperModel:
        """Download if needed, convert if needed, load; blocks.

        Raises:
            ModelUnavailable: the hub cannot be reached, or the files are no model for this engine.
        """
        started = time.monotonic()
        settings = self._settings
        spec = EngineSpec(settings.engine, settings.device, settings.compute_type, settings.threads)
        engine = load_engine(self._folder(source), spec, settings.cache_dir)
        scheduler = Scheduler(WindowDecoder(engine).decode, max_batch=engine.info.max_batch, name=source.name)
        info = engine.info
        log.info(
            "model %s loaded in %.2f s: engine=%s encoder=%s device=%s compute_type=%s"
            " max_batch=%d workers=%d",
            source.name,
            time.monotonic() - started,
            info.engine,
            info.encoder or info.engine,
            info.device,
            info.compute_type,
            info.max_batch,
            info.workers,
        )
        return WhisperModel(source.name, engine, scheduler)

    def _folder(self, source: ModelSource) -> Path:
        """Return a local folder with the model's files; the fake engine needs none."""
        if self._settings.engine == "fake":
            return Path()
        if source.folder is not None:
            return source.folder
        from whisper_server.services import hub  # noqa: PLC0415  (only when a model is downloaded)

        return hub.fetch(source, self._settings.cache_dir, offline=self._settings.offline)
