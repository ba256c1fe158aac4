"""Runs inputs in child processes, and learns from their ends."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz import child

CHUNK = 5_000
TARGET = "tests.fuzz.target"


def run(inputs: int, seed: int, first: int = 0, chunk: int = CHUNK, target: str = TARGET) -> dict[str, Any]:
    """Run the inputs; return what became of them, the findings and the peak memory in MB."""
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    peak_mb = growth_mb = 0.0
    last = first + inputs
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status"
        while first < last:
            count = min(chunk, last - first)
            command = [sys.executable, "-m", "tests.fuzz.child", status, str(seed), str(first), str(count)]
            done = subprocess.run([*command, target], stderr=subprocess.PIPE, check=False)
            report = json.loads(status.read_text())
            outcomes.update(report["outcomes"])
            findings.update((int(number), what) for number, what in report["findings"].items())
            peak_mb = max(peak_mb, report["peak_mb"])
            growth_mb = max(growth_mb, report["growth_mb"])
            first += count
            if done.returncode != 0:  # the input that was at work ended the child
                first = report["index"] + 1
                findings[report["index"]] = child.death(done.returncode, done.stderr)
    return {"outcomes": dict(outcomes), "findings": findings, "peak_mb": peak_mb, "growth_mb": growth_mb}
