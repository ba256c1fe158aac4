"""Which engines there are, by name; a new one is one line here and one module beside this file."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.base import Engine, EngineSpec

_MODULES = {
    "ctranslate2": "whisper_server.services.engines.ct2.load",
    "torch": "whisper_server.services.engines.torch.engine",
    "fake": "whisper_server.services.engines.fake",
}
_EXTRAS = {"torch": ("torch", "transformers")}  # packages that an engine needs beside requirements.txt


class _Load(Protocol):
    def __call__(self, folder: Path, spec: EngineSpec, cache_dir: Path) -> Engine: ...


class _Prepare(Protocol):
    def __call__(self, folder: Path, spec: EngineSpec, cache_dir: Path) -> Path: ...


class _Count(Protocol):
    def __call__(self, folder: Path, spec: EngineSpec) -> int: ...


def prepare_engine(folder: Path, spec: EngineSpec, cache_dir: Path) -> Path:
    """Make what the engine makes of a model's files once, as converted weights; return its folder; blocks.

    An engine without a function `prepare` reads the files as they are. Raises as `load_engine`.
    """
    prepare = cast("_Prepare | None", getattr(_module(spec.engine), "prepare", None))
    return prepare(folder, spec, cache_dir) if prepare else folder


def working_bytes(folder: Path, spec: EngineSpec) -> int:
    """Return what calls will take beside the weights, 0 where the engine only knows once it is loaded.

    Raises as `load_engine`.
    """
    count = cast("_Count | None", getattr(_module(spec.engine), "working_bytes", None))
    return count(folder, spec) if count else 0


def conversions_of(folder: Path, cache_dir: Path) -> tuple[Path, ...]:
    """Return what was converted from `folder`, in any number format, also from files that it had before."""
    from whisper_server.services.engines.ct2 import convert  # noqa: PLC0415  (only CTranslate2 converts)

    return convert.conversions_of(folder, cache_dir)


def weight_bytes(folder: Path) -> int:
    """Return what the converted weights in `folder` take in memory, by their files."""
    from whisper_server.services.engines.ct2 import working_memory  # noqa: PLC0415  (as above)

    return working_memory.weight_bytes(folder)


def load_engine(folder: Path, spec: EngineSpec, cache_dir: Path) -> Engine:
    """Import the engine's module and load the model in `folder`; blocks. `spec` names an engine, not auto.

    Raises:
        ModelUnavailable: the folder is not a model that the engine can read, or the engine is not installed.
    """
    load = cast("_Load", _module(spec.engine).load)
    return load(folder, spec, cache_dir)


def _module(engine: str) -> ModuleType:
    missing = [name for name in _EXTRAS.get(engine, ()) if find_spec(name) is None]
    if missing:
        raise ModelUnavailable(
            f"WHISPER_ENGINE: {engine} needs packages that are not installed: {', '.join(missing)}."
        )
    return import_module(_MODULES[engine])
