"""Starts a decoder process, from source or from the one-file program."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from whisper_server.core.errors import Unavailable
from whisper_server.services.decode_wire import Kind, receive

log = logging.getLogger(__name__)

_FROZEN_WORD = "decode-child"  # what the one-file program says to itself (commands.py)
# Isolated and without `site`: quicker, and nothing of the environment has a say. The paths are the server's.
_BOOT = """
import sys
sys.path[:] = sys.argv[1:]
from whisper_server.services.decode_child import main
main()
"""


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
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        log.exception("a decoder process cannot be started")
        raise _unavailable() from error
    assert child.stdin is not None
    assert child.stdout is not None
    ready = receive(child.stdout)
    if ready is None or ready.kind is not Kind.READY:
        child.kill()
        child.communicate()
        log.error("a decoder process ended before it had begun (exit code %s)", child.returncode)
        raise _unavailable()
    return child


def _command() -> list[str]:
    if hasattr(sys, "frozen"):
        return [sys.executable, _FROZEN_WORD]
    root = str(Path(__file__).parents[2])
    return [sys.executable, "-I", "-S", "-c", _BOOT, root, *filter(None, sys.path)]


def _unavailable() -> Unavailable:
    return Unavailable(
        "The process that reads audio cannot be started. See the server's log, or set "
        "WHISPER_DECODE_PROCESS=false to read audio in the server itself."
    )
