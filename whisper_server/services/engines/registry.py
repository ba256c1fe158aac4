"""Which engines there are, by name; a new one is one line here and one module beside this file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from whisper_server.services.engines.base import Engine, EngineSpec

_MODULES = {
    "ctranslate2": "whisper_server.services.engines.ctranslate2",
    "fake": "whisper_server.services.engines.fake",
}


class _Load(Protocol):
    def __call__(self, folder: Path, spec: EngineSpec, cache_dir: Path) -> Engine: ...


class _Prepare(Protocol):
    def __call__(self, folder: Path, spec: EngineSpec, cache_dir: Path) -> Path: ...


def prepare_engine(folder: Path, spec: EngineSpec, cache_dir: Path) -> Path:
    """Make what the engine makes of a model's files once, as converted weights; return its folder; blocks.

    An engine without a function `prepare` reads the files as they are.

    Raises:
        ModelUnavailable: the folder is not a model that the engine can read.
    """
    prepare = cast("_Prepare | None", getattr(import_module(_MODULES[spec.engine]), "prepare", None))
    return prepare(folder, spec, cache_dir) if prepare else folder


def load_engine(folder: Path, spec: EngineSpec, cache_dir: Path) -> Engine:
    """Import the engine's module and load the model in `folder`; blocks.

    Raises:
        ModelUnavailable: the folder is not a model that the engine can read.
    """
    load = cast("_Load", import_module(_MODULES[spec.engine]).load)
    return load(folder, spec, cache_dir)
