"""Starts a decoder process, from source or from the one-file program."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from whisper_server.core.errors import Unavailable
from whisper_server.services.audio.decoder_process.messages import Kind, receive

log = logging.getLogger(__name__)

_FROZEN_WORD = "decode-child"  # what the one-file program says to itself (commands.py)
# Isolated and without `site`: quicker, and nothing of the environment has a say. The paths are the server's.
_BOOT = """
import sys
sys.path[:] = sys.argv[1:]
from whisper_server.services.audio.decoder_process.child import main
main()
"""
_READ_BYTES = 4096
_MAX_LINE_BYTES = 1000


def spawn() -> subprocess.Popen[bytes]:
    """Start a child and wait until it can decode; blocks for a tenth of a second.

    Raises:
        Unavailable: it cannot be started.
    """
    try:
        child = subprocess.Popen(  # noqa: S603  (our own interpreter, our own words)
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # nobody may read ours, and then a child that writes there hangs
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        log.exception("a decoder process cannot be started")
        raise _unavailable() from error
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    teller = threading.Thread(
        target=_tell, args=(child.pid, child.stderr), name="decoder-stderr", daemon=True
    )
    try:
        teller.start()
    except RuntimeError as error:  # no more threads
        _end(child)
        child.stderr.close()
        log.exception("a decoder process cannot be started")
        raise _unavailable() from error
    ready = receive(child.stdout)
    if ready is None or ready.kind is not Kind.READY:
        _end(child)
        teller.join()  # it knows the reason
        log.error("a decoder process ended before it had begun (exit code %s)", child.returncode)
        raise _unavailable()
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()


def _tell(pid: int, pipe: IO[bytes]) -> None:
    """Log what a child writes to its standard error, until it ends."""
    with pipe:
        rest = b""
        # Past the buffer: its lock must not be held when the interpreter ends.
        while data := os.read(pipe.fileno(), _READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in filter(None, lines):
                log.warning("decoder process %d: %s", pid, line.decode("utf-8", "replace").rstrip())
        if rest:
            log.warning("decoder process %d: %s", pid, rest.decode("utf-8", "replace").rstrip())


def _command() -> list[str]:
    if hasattr(sys, "frozen"):
        return [sys.executable, _FROZEN_WORD]
    root = str(Path(__file__).parents[4])
    return [sys.executable, "-I", "-S", "-c", _BOOT, root, *filter(None, sys.path)]


def _unavailable() -> Unavailable:
    return Unavailable(
        "The process that reads audio cannot be started. See the server's log, or set "
        "WHISPER_DECODE_PROCESS=false to read audio in the server itself."
    )
