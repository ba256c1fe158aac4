"""The format of log lines and the set-up of logging, which only entry points call.

One record is one line of `time level logger message`. Line breaks, control characters and marks that
change the reading direction are escaped, so that nothing from outside can forge or hide a line; the
lines of a traceback are indented. A thread that logs never waits: `line_writer` writes.
"""

from __future__ import annotations

import codecs
import logging
import sys
import unicodedata
from collections.abc import Callable

from whisper_server.core.system.line_writer import LineStream, LineWriter, line_bytes, unblock, writer_to

LAST_LINES_S = 1.0  # for lines that are not written yet when the process ends, or is about to be busy
_WRITER_END_S = 0.2  # for the writer's thread after that: it has nothing left to write, or is blocked

codecs.lookup("unicode_escape")  # imports a module now: without free descriptors that would fail

_QUIET = (
    "python_multipart",  # one warning for each malformed byte of a request
    "httpx",  # one line per request to the model hub, with its address; huggingface_hub 2 uses the second
    "httpx2",
    "httpcore",
    "httpcore2",
    "huggingface_hub",
)


class LineFormatter(logging.Formatter):
    """Formats a record as one line that only this process can have written."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Return the record's line."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  (logging's name)
        """Return the traceback, indented: none of its lines looks like a record."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("    " + one_line(line) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return the text with control, format and line-separating characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp", "Cs"}
        else char
        for char in text
    )


class WriterHandler(logging.Handler):
    """Formats on the calling thread, and leaves the writing to a `LineWriter`."""

    def __init__(self, writer: LineWriter, encode: Callable[[str], bytes]) -> None:
        super().__init__()
        self._writer = writer
        self._encode = encode

    def emit(self, record: logging.LogRecord) -> None:
        """Put the record's lines."""
        try:
            self._writer.put(self._encode(self.format(record) + "\n"))
        except Exception:  # noqa: BLE001  (as logging's own handlers do)
            self.handleError(record)

    def flush(self) -> None:
        """Wait a moment for what is not written yet."""
        self._writer.flush(LAST_LINES_S)

    def close(self) -> None:
        """End the writer; `logging` calls this when the process ends, after `flush`."""
        self._writer.close(_WRITER_END_S)
        super().close()


class _Stderr:
    """The one writer of the process's standard error."""

    writer: LineWriter | None = None


def configure_logging(level: str) -> None:
    """Send every logger's lines, and what is printed there, to stderr; once per process.

    From then on neither logging nor printing waits for a reader. Lines that do not fit into the queue are
    dropped.
    """
    stream = sys.stderr
    unblock(stream)

    def encode(text: str) -> bytes:
        return line_bytes(stream, text)

    def notice(n_lines: int) -> bytes:
        message = f"{n_lines} lines of the log were dropped here: they were not read in time"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None)
        return encode(formatter.format(record) + "\n")

    formatter = LineFormatter()
    writer = _Stderr.writer = LineWriter(writer_to(stream), notice)
    handler = WriterHandler(writer, encode)
    handler.setFormatter(formatter)
    sys.stderr = LineStream(stream, lambda text: writer.put(encode(text)))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    is_debug = level == "DEBUG"
    # uvicorn logs its start in ten lines; ours takes one.
    logging.getLogger("uvicorn").setLevel("INFO" if is_debug else "WARNING")
    for name in _QUIET:
        logging.getLogger(name).setLevel("INFO" if is_debug else "ERROR")


def flush_log() -> None:
    """Wait until what was logged and printed is written, at most LAST_LINES_S where it is not read."""
    if _Stderr.writer is not None:
        _Stderr.writer.flush(LAST_LINES_S)


def dropped_lines() -> int:
    """Return how many lines of the log were lost so far."""
    return _Stderr.writer.n_dropped if _Stderr.writer is not None else 0
