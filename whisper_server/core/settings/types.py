"""Kinds of settings that pydantic lacks: a list that is written with commas, and the folder of the cache."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaList: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


def default_cache_dir() -> Path:
    """Return the folder for downloads and converted models, where the platform keeps caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        home = Path(base or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as in containers
        home = Path(tempfile.gettempdir())
    return home / "whisper-server"
