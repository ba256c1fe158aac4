"""Where things are kept on this machine."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def default_cache_dir() -> Path:
    """Return the folder for downloads and converted models, by the platform's own custom."""
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
