"""Visits on disk: a comparison that was cut off goes on where it stopped, on the same code and machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from bench.serving.servers import ROOT, Setup, processor
from bench.serving.visit import Plan, Visit

PACKAGE = ROOT / "whisper_server"


class Journal:
    """One line of JSON for each visit, with what it was a visit of."""

    def __init__(self, file: Path) -> None:
        """Write to `file`, which is made with the first visit."""
        self._file = file

    def add(self, setup: Setup, plan: Plan, run: int, visit: Visit) -> None:
        """Keep a visit."""
        with self._file.open("a") as file:
            file.write(json.dumps({"of": _key(setup, plan, visit.server, run), **asdict(visit)}) + "\n")

    def find(self, setup: Setup, plan: Plan, run: int, server: str) -> Visit | None:
        """Return the visit of this run, if this very code has made it under the same conditions."""
        wanted = _key(setup, plan, server, run)
        lines = self._file.read_text().splitlines() if self._file.is_file() else []
        for line in reversed(lines):
            kept = json.loads(line)
            if kept.pop("of", None) == wanted:
                return Visit(**kept)
        return None


def _key(setup: Setup, plan: Plan, server: str, run: int) -> str:
    """Say what a visit is of; two of the same can stand for each other."""
    made = repr((replace(setup, build=Path(), whisper_cpp=None), plan, server, run, processor()))
    return hashlib.sha256(made.encode() + code()).hexdigest()


def code() -> bytes:
    """Return a digest of this server's code."""
    found = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        found.update(file.read_bytes())
    return found.digest()
