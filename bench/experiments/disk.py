"""Disk that each requirements file takes, in a fresh virtual environment with nothing else in it.

    python -m bench.experiments.disk requirements.txt [requirements-test.txt ...] [--with requirements.txt]

Counts blocks on disk, as `du` does; pip itself and what an empty environment has is subtracted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def used_mb(folder: Path) -> float:
    """Return the megabytes that a folder's files take."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def installed_mb(*files: str, first: str = "") -> float:
    """Install the files together into a fresh environment, after `first`; return what all of it adds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", name], check=True)
        empty_mb = used_mb(folder)
        flags = [flag for file in files for flag in ("-r", file)]
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        if first:
            subprocess.run([*pip, first], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        subprocess.run([*pip, *flags], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        return used_mb(folder) - empty_mb


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument(
        "--with", dest="base", action="append", default=[], help="installed with each of them"
    )
    parser.add_argument("--first", default="", help="a requirement installed before, as torch==2.13.0")
    arguments = parser.parse_args()
    print("| requirements | MB |\n| --- | --- |")
    for file in arguments.files:
        files = (*arguments.base, file)
        print(f"| {' + '.join(files)} | {installed_mb(*files, first=arguments.first):.0f} |", flush=True)


if __name__ == "__main__":
    main()
