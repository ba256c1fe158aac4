"""Prepares a model for loading: downloads its files, and has the engine convert them, each once.

`prepare` is all that is needed so that a model can be loaded; `download` is files from the hub to the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from whisper_server.services.engines.base import EngineSpec
from whisper_server.services.engines.registry import choose_engine, prepare_engine, working_bytes
from whisper_server.services.model_files.disk import holding_of, least_bytes
from whisper_server.services.model_files.hub.fetch import download_repository

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.core.types import ModelSource
    from whisper_server.services.model_files.hub.fetch import OnProgress


def spec_of(settings: Settings) -> tuple[EngineSpec, str]:
    """Return how the engine is to be loaded, and why it is this one."""
    choice = choose_engine(settings.engine, settings.device)
    spec = EngineSpec(
        choice.engine,
        settings.device,
        settings.compute_type,
        settings.threads,
        compiles=settings.compile,
        beam_size=settings.beam_size,
        audio_context=settings.audio_context,
    )
    return spec, choice.reason


def local_folder(source: ModelSource, settings: Settings, on_progress: OnProgress | None = None) -> Path:
    """Return a local folder with the model's files, downloading them where needed; blocks.

    The fake engine needs none. Raises as `download_repository`.
    """
    if settings.engine == "fake":
        return Path()
    if source.folder is not None:
        return source.folder
    return download_repository(source, settings.cache_dir, offline=settings.offline, on_progress=on_progress)


def prepare_model(source: ModelSource, settings: Settings, on_progress: OnProgress | None = None) -> Path:
    """Do all that a first use does before it loads the model; return the folder with its files; blocks.

    Afterwards the model loads without a network.

    Raises:
        ModelUnavailable: the hub cannot be reached, or the files are no model for this engine.
    """
    folder = local_folder(source, settings, on_progress)
    spec, _ = spec_of(settings)
    prepare_engine(folder, spec, settings.cache_dir)
    return folder


def expected_bytes(source: ModelSource, settings: Settings) -> int:
    """Return what the model will take in memory, by what lies on the disk; 0 where nothing does.

    Weights count with the least that they may take, calls with the most. Raises as `prepare_model`, where
    the files are no model.
    """
    one = holding_of(source, settings.cache_dir)
    if one.folder is None:
        return 0
    spec, _ = spec_of(settings)
    return least_bytes(one) + working_bytes(one.folder, spec)
