"""One piece of work in a process of its own, which may be ended by it: limits, and how it ended.

The process gets one request and gives one answer, both JSON; its log lines come in between, and become lines
of the log here. It ends when the pipe from here closes, however this process ends, and is the first that the
system ends where memory is short. Both sides are here; what the work is, is known to neither.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

# Isolated and without `site`: quicker, and independent of the environment. The paths are this process's.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
import importlib
importlib.import_module(sys.argv[1]).main()
"""
_PACKAGE_PARENT = Path(__file__).parents[3]  # the folder that holds `whisper_server`
_PIECE_BYTES = 4096

Request = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the process may take; None: no limit. Where the system has no such limits, `wall_s` holds."""

    wall_s: float
    cpu_s: int | None = None
    data_bytes: int | None = None


class ChildFailed(Exception):
    """The process has ended without an answer."""

    def __init__(self, code: int, *, was_late: bool) -> None:
        super().__init__(code)
        self.code = code  # negative: a signal
        self.was_late = was_late  # it was ended for its time

    @property
    def is_crash(self) -> bool:
        """Whether its work ended it, and not someone else, or a lack of memory."""
        return not self.was_late and self.code != -getattr(signal, "SIGKILL", 9)

    @property
    def ending(self) -> str:
        """The signal or the exit code that ended it."""
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"exit code {self.code}"


def run_in_child(module: str, word: str, request: Request, limits: Limits) -> Answer:
    """Have `main` of a module answer a request, in a process of its own; blocks.

    `word` is what the one-file program is started with for this.

    Raises:
        OSError: the process cannot be started.
        RuntimeError: no thread can be started.
        ChildFailed: it ended without an answer.
    """
    child = subprocess.Popen(  # noqa: S603  (our own interpreter, our own words)
        _command(module, word),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    late = threading.Event()

    def end_late() -> None:
        late.set()
        child.kill()

    deadline = threading.Timer(limits.wall_s, end_late)
    deadline.daemon = True
    printed = threading.Thread(target=_log_printed, args=(child.pid, child.stderr), daemon=True)
    try:
        deadline.start()
        printed.start()
        with suppress(BrokenPipeError):  # its end is seen below
            child.stdin.write(json.dumps({"request": request, "limits": _as_json(limits)}).encode() + b"\n")
            child.stdin.flush()
        answer = _answer_in(child.stdout)
    finally:
        deadline.cancel()
        child.kill()
        code = child.wait()
        if printed.ident is not None:  # it has begun
            printed.join()
        for pipe in (child.stdin, child.stdout, child.stderr):
            with suppress(OSError):  # what is in its buffer has no reader any more
                pipe.close()
    if answer is None:
        was_late = late.is_set() or code == -getattr(signal, "SIGXCPU", 24)
        raise ChildFailed(code, was_late=was_late)
    return answer


def answer_one(work: Callable[[Request], Answer]) -> None:
    """Be the process: read the request, set the limits, answer, end."""
    # Whoever started this process decides when it ends: a signal to the whole group is for them.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.enable()  # what native code crashes in is on stderr
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    read = json.loads(sys.stdin.buffer.readline())
    _limit(**read["limits"])
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    logging.basicConfig(handlers=[_LinesTo(answers)], level=logging.INFO, force=True)
    try:
        answer = work(read["request"])
    except BaseException:  # noqa: BLE001  (a bug, which has to be reported)
        sys.stderr.write(traceback.format_exc())
        sys.stderr.flush()
        os._exit(1)
    _send(answers, {"answer": answer})
    os._exit(0)


class _LinesTo(logging.Handler):
    """Sends log records to the process that has a log."""

    def __init__(self, answers: IO[bytes]) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._answers, {"log": [record.name, record.levelno, record.getMessage()]})


def _command(module: str, word: str) -> Sequence[str]:
    if hasattr(sys, "frozen"):
        return [sys.executable, word]
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, module, str(_PACKAGE_PARENT), *filter(None, sys.path)]


def _as_json(limits: Limits) -> dict[str, int | None]:
    return {"cpu_s": limits.cpu_s, "data_bytes": limits.data_bytes}


def _answer_in(pipe: IO[bytes]) -> Answer | None:
    """Log what comes, and return the answer; None where the process ends before."""
    for line in pipe:
        try:
            message = json.loads(line)
        except ValueError:  # it ended in the middle of a line
            return None
        if "answer" in message:
            answer: Answer = message["answer"]
            return answer
        name, level, text = message["log"]
        logging.getLogger(name).log(level, "%s", text)
    return None


def _send(answers: IO[bytes], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


def _log_printed(pid: int, pipe: IO[bytes]) -> None:
    rest = b""
    while data := os.read(pipe.fileno(), _PIECE_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in filter(None, lines):
            log.warning("process %d: %s", pid, line.decode("utf-8", "replace").rstrip())
    if rest:
        log.warning("process %d: %s", pid, rest.decode("utf-8", "replace").rstrip())


def _end_with_the_pipe() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def _limit(cpu_s: int | None, data_bytes: int | None) -> None:
    """Let an allocation fail, and not the machine; where memory runs out all the same, be the first to go."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if sys.platform == "win32":
        return  # no such limits
    import resource  # noqa: PLC0415  (not on Windows)

    wanted = {
        resource.RLIMIT_DATA: data_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        with suppress(ValueError, OSError):  # a lower one is set already, or the system has none of the kind
            resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
