"""Decoder processes with a fault that a file sets off: here a CAF file, as no other test sends one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from whisper_server.services.audio.decoder_process import handle
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses

FAULTS = {
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "hang": "threading.Event().wait()",
    "stay": "threading.Event().wait()",  # for longer than any test
    "spin": "sum(range(10**15))",  # one native call, as a loop in libav would be
    "grow": "child.kept = b'x' * (120 << 20)",
    "eat": "bytearray(2 << 30)",
    # Nothing is left, for as long as the process lives.
    "starve": "child.kept = eaten()\n            raise MemoryError",
    "lack": "raise OSError(errno.ENOMEM, 'as an import says it')",
    "talk": r"os.write(2, (b'x' * 1999 + b'\n') * 500 + b'\xff end')",
}
AT_OPENING = {
    # In a process that has opened another file before; else a bug of ours.
    "err": "raise MemoryError if Faulty.n_opened > 1 else LookupError('a bug')",
}
_BOOT = """
import errno, os, signal, sys, threading
sys.path[:] = sys.argv[1:]
from whisper_server.services.audio import budget
from whisper_server.services.audio.decoder_process import child
from whisper_server.services.audio.decoder import LibavDecoder

def eaten():
    pieces = []
    for size in (1 << 20, 1 << 12, 64):
        try:
            while True:
                pieces.append(bytearray(size))
        except MemoryError:
            pass
    return pieces

class Faulty(LibavDecoder):
    n_opened = 0

    def __init__(self, *args):
        super().__init__(*args)
        Faulty.n_opened += 1
        if self.info.format == "caf":
            {at_opening}

    def pieces(self, channel):
        pieces = super().pieces(channel)
        if self.info.format == "caf":
            {fault}
        yield from pieces

child.LibavDecoder = Faulty
child.STEP_LIMIT_S = {limit_s}
child.SLACK_S = 1 - budget.BASE_CPU_S
child.main()
"""


def plant(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every decoder process that starts from now on have this fault."""
    limit_s = 0.5 if fault == "hang" else 120
    program = _BOOT.format(
        fault=FAULTS.get(fault, "pass"), at_opening=AT_OPENING.get(fault, "pass"), limit_s=limit_s
    )
    monkeypatch.setattr(handle, "CHILD_PROGRAM", program)


@contextmanager
def decoders_that(fault: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcesses]:
    """Lend decoder processes that do this when they decode a CAF file."""
    plant(fault, monkeypatch)
    pool = DecoderProcesses(1)
    try:
        yield pool
    finally:
        pool.close()
