"""Which engines there are, by name, and which of them a setting means on this machine.

A new one is one line here and one module beside this file. The server answers before it knows any inference
library: modules are named in strings, packages are looked for, and a model that is loaded imports them.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.base import Engine, EngineSpec
from whisper_server.services.engines.ct2 import folder as ct2_folder
from whisper_server.services.engines.ct2.unfinished import remove_leftovers

_MODULES = {
    "ctranslate2": "whisper_server.services.engines.ct2.load",
    "torch": "whisper_server.services.engines.torch.engine",
    "fake": "whisper_server.services.engines.fake",
}
_EXTRAS = {"torch": ("torch", "transformers")}  # packages that an engine needs beside requirements.txt


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and why it was taken."""

    engine: str
    reason: str


def choose_engine(engine: str, device: str) -> Choice:
    """Return the engine that the settings mean on this machine."""
    return choice_of(engine, device, is_installed=_is_installed, is_apple_silicon=_is_apple_silicon())


def choice_of(
    engine: str, device: str, *, is_installed: Callable[[str], bool], is_apple_silicon: bool
) -> Choice:
    """Return the engine for a machine of this description.

    CTranslate2 wherever it runs, which is CPUs and one NVIDIA GPU: its import costs 0.1 s against several,
    and its int8 kernels are what a CPU does best. PyTorch for what CTranslate2 lacks: Apple's GPU, and
    several GPUs at once. That the GPU of an Apple Silicon Mac beats CTranslate2 on its CPU cores is
    expected, not measured; `WHISPER_ENGINE=ctranslate2` takes the choice back.
    """
    if engine != "auto":
        return Choice(engine, "as set")
    has_torch = is_installed("torch") and is_installed("transformers")
    wants_metal = device == "mps" or (device == "auto" and is_apple_silicon)
    if has_torch and wants_metal:
        return Choice("torch", "auto: CTranslate2 has no Metal, PyTorch has")
    if device == "mps":
        return Choice("torch", "auto: only PyTorch knows mps")
    if has_torch and ":" in device:
        return Choice("torch", "auto: GPUs are named, and the torch engine runs one model on each")
    if is_installed("ctranslate2") or not has_torch:
        return Choice("ctranslate2", "auto: CTranslate2 runs here")
    return Choice("torch", "auto: CTranslate2 is not installed")


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
    """Return the folders that engines made of a model's files; only CTranslate2's engine makes any."""
    return ct2_folder.conversions_of(folder, cache_dir)


def remove_unfinished(cache_dir: Path) -> None:
    """Remove what conversions that were killed left in the cache, unless a process converts something now."""
    remove_leftovers(cache_dir / ct2_folder.CONVERTED)


def weight_bytes(folder: Path) -> int:
    """Return what the weights in a folder of CTranslate2 take in memory, by their files."""
    return ct2_folder.weight_bytes(folder)


def load_engine(folder: Path, spec: EngineSpec, cache_dir: Path) -> Engine:
    """Import the engine's module and load the model in `folder`; blocks. `spec` names an engine, not auto.

    Raises:
        ModelUnavailable: the folder is not a model that the engine can read, or the engine is not installed.
    """
    load = cast("_Load", _module(spec.engine).load)
    return load(folder, spec, cache_dir)


def _module(engine: str) -> ModuleType:
    missing = [name for name in _EXTRAS.get(engine, ()) if not _is_installed(name)]
    if missing:
        raise ModelUnavailable(
            f"WHISPER_ENGINE: {engine} needs packages that are not installed: {', '.join(missing)}."
        )
    return import_module(_MODULES[engine])


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
