"""Print the interpreter of the oldest or the newest supported Python: `pythons.py oldest|newest`.

Looks at python3.N on PATH and at the versions that pyenv has. Releases only: no alphas, and no
free-threaded builds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASK = (
    "import sys, sysconfig; print(*sys.version_info[:3], sys.version_info.releaselevel == 'final'"
    " and not sysconfig.get_config_var('Py_GIL_DISABLED'))"
)


def floor() -> tuple[int, int]:
    """Return what pyproject.toml requires."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^requires-python = ">=(\d+)\.(\d+)"', text, re.MULTILINE)
    assert found
    return int(found[1]), int(found[2])


def candidates() -> list[Path]:
    """Return every python3.N, whether it runs or not."""
    folders = [Path(each) for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += sorted((pyenv / "versions").glob("*/bin"))
    return [path for folder in folders for path in folder.glob("python3.*") if path.name[8:].isdigit()]


def version(python: Path) -> tuple[int, ...] | None:
    """Return its version, None where it does not run (as a shim of pyenv) or is no release."""
    done = subprocess.run([str(python), "-c", ASK], capture_output=True, text=True, check=False)
    *numbers, is_release = done.stdout.split() or ["False"]
    return tuple(map(int, numbers)) if done.returncode == 0 and is_release == "True" else None


def main() -> int:
    found = {numbers: path for path in candidates() if (numbers := version(path)) and numbers[:2] >= floor()}
    if not found:
        print("no Python {}.{} or newer".format(*floor()), file=sys.stderr)
        return 1
    if sys.argv[1] == "newest":
        print(found[max(found)])
        return 0
    minor = min(numbers[:2] for numbers in found)
    print(found[max(numbers for numbers in found if numbers[:2] == minor)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
