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
    "talk": r"os.write(2, (b'x' * 1999 + b'\n') * 500 + b'\xff end')",
}
_BOOT = """
import os, signal, sys, threading
sys.path[:] = sys.argv[1:]
from whisper_server.services.audio import budget
from whisper_server.services.audio.decoder_process import child
from whisper_server.services.audio.decoder import LibavDecoder

class Faulty(LibavDecoder):
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
    monkeypatch.setattr(handle, "CHILD_PROGRAM", _BOOT.format(fault=FAULTS[fault], limit_s=limit_s))


@contextmanager
def decoders_that(fault: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcesses]:
    """Lend decoder processes that do this when they decode a CAF file."""
    plant(fault, monkeypatch)
    pool = DecoderProcesses(1)
    try:
        yield pool
    finally:
        pool.close()
