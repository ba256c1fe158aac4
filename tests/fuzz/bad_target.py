"""A decoder with every kind of fault, each for one input: what the fuzzer has to notice."""

from __future__ import annotations

import os
import signal

import numpy as np

from tests.fuzz.target import Finding

CRASH, ERROR, MEMORY, FINDING = 103, 105, 107, 109


def outcome(_: bytes, index: int) -> str:
    if index == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif index == ERROR:
        raise IndexError("list index out of range")
    elif index == MEMORY:
        np.ones(400_000_000, np.uint8)
    elif index == FINDING:
        raise Finding("samples beyond full scale")
    return "audio"
