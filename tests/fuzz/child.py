"""The process that the fuzzer may lose: `python -m tests.fuzz.child STATUS SEED FIRST COUNT TARGET`.

Before each input its number is written to STATUS, so whoever finds the process dead knows what it died of.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.corpus import seeds
from tests.fuzz.mutate import mutated

HANG_S = 60  # of one input of some kilobytes; a clock, because a native call counts nothing
HUNG = 1  # faulthandler's exit code
MAX_GROWTH_MB = 250  # by one input: the index that a file may have, and the audio that is held
STATUS = Path("/proc/self/status")
WARM_UP = 50  # inputs until the libraries are all there


def peak_mb() -> float:
    # Linux lets a process begin with its parent's peak in ru_maxrss; VmHWM begins with the program.
    if STATUS.exists():
        return int(STATUS.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def death(code: int, stderr: bytes) -> str:
    """Say how a child ended that did not end by itself."""
    if code == HUNG and b"Timeout" in stderr:
        return "hang"
    if code < 0:
        return f"crash by {signal.Signals(-code).name}"
    return f"the child ended with code {code}: {stderr.decode(errors='replace')[-500:]}"


class Status:
    """What is known so far, in a file that outlives this process."""

    def __init__(self, path: Path, first: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.outcomes: Counter[str] = Counter()
        self.findings: dict[int, str] = {}
        self.base_mb = peak_mb()
        self.peak_mb = self.base_mb
        self.write(first)

    def write(self, index: int) -> None:
        text = json.dumps(
            {
                "index": index,
                "outcomes": self.outcomes,
                "findings": self.findings,
                "peak_mb": self.peak_mb,
                "growth_mb": self.peak_mb - self.base_mb,
            }
        )
        # Padded to a length that only grows: no reader finds the end of an older text behind it.
        os.pwrite(self._file, text.ljust(2048).encode(), 0)

    def note(self, index: int, done: str | None, finding: str | None) -> None:
        if done is not None:
            self.outcomes[done] += 1
        if finding is not None:
            self.findings[index] = finding
        before, self.peak_mb = self.peak_mb, peak_mb()
        if self.peak_mb - before > MAX_GROWTH_MB:
            self.findings[index] = f"{self.peak_mb - before:.0f} MB more"


def main(arguments: list[str]) -> Any:
    seed, first, count = (int(value) for value in arguments[1:4])
    outcome = importlib.import_module((*arguments[4:], "tests.fuzz.target")[0]).outcome
    files = seeds()
    for index in range(WARM_UP):
        outcome(files[index % len(files)], index)
    status = Status(Path(arguments[0]), first)
    for index in range(first, first + count):
        data = mutated(files, seed, index)
        status.write(index)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        done, finding = None, None
        try:
            done = outcome(data, index)
        except BaseException as error:  # noqa: BLE001  (that is what is looked for)
            finding = f"{type(error).__name__}: {str(error)[:200]}"
        faulthandler.cancel_dump_traceback_later()
        status.note(index, done, finding)
    status.write(first + count)


if __name__ == "__main__":
    main(sys.argv[1:])
