"""Which engine `auto` means, and which devices a setting names: pure decisions, nothing heavy is imported.

The server answers before it knows any inference library, so packages are looked for, not imported.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec


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


def split_devices(device: str) -> list[str]:
    """Return the devices of a setting: "cuda:0,cuda:1" names two."""
    return [part.strip() for part in device.split(",") if part.strip()]


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
