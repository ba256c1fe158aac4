"""How log lines look; called by the entry points only, everybody else just logs.

One record is one line of `time level logger message`. Line breaks, control characters and marks that
change the reading direction are escaped, so that nothing from outside can forge or hide a line; the
lines of a traceback are indented.
"""

from __future__ import annotations

import logging
import sys
import unicodedata

_QUIET = (
    "python_multipart",  # one warning for each malformed byte of a request
    "httpx",  # one line per request to the model hub, with its address
    "httpcore",
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


def configure_logging(level: str) -> None:
    """Send every logger's lines to stderr; replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    is_debug = level == "DEBUG"
    # uvicorn tells the story of its start in ten lines; ours tells it in one.
    logging.getLogger("uvicorn").setLevel("INFO" if is_debug else "WARNING")
    for name in _QUIET:
        logging.getLogger(name).setLevel("INFO" if is_debug else "ERROR")
