"""Renew the locks: `python tools/lock.py`, after `pip install uv`.

`requirements.lock` holds what requirements.txt resolves to on every platform and every Python that is
supported, with hashes; `requirements-build.lock` holds the tools of requirements-build.txt. What was
published in the last seven days is left out: malicious releases are mostly found and removed within days.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUARANTINE_DAYS = 7
LOCKS = ("requirements", "requirements-build")
PYTHON = "3.11"  # the oldest that pyproject.toml allows


def lock(name: str, before: datetime.date) -> None:
    """Resolve NAME.txt into NAME.lock with what was published before a day (UTC).

    One environment can hold both locks: the later is resolved under the earlier.
    """
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade"),
        *("--universal", "--python-version", PYTHON, "--generate-hashes", "--no-header", "--no-annotate"),
        *("--exclude-newer", f"{before}T00:00:00Z", f"{name}.txt", "--output-file", f"{name}.lock"),
        *(argument for other in LOCKS[: LOCKS.index(name)] for argument in ("--constraint", f"{other}.lock")),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    path = ROOT / f"{name}.lock"
    head = f"# {name}.txt, resolved for every platform by tools/lock.py; nothing from {before} or later.\n"
    path.write_text(head + path.read_text(encoding="utf-8"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=QUARANTINE_DAYS, help="how old a release must be")
    arguments = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date()
    for name in LOCKS:
        lock(name, today - datetime.timedelta(days=arguments.days))


if __name__ == "__main__":
    main()
