"""What a person sees: messages on standard error, and nothing in them that a terminal would obey."""

from __future__ import annotations

import logging
import sys
import unicodedata

# They turn over the direction in which the rest of a line is written (Unicode's annex 9).
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
LINES = frozenset("\n\t")


def printable(text: str, kept: frozenset[str] = frozenset()) -> str:
    """Return a text with a question mark for each character that a terminal would obey.

    Those are control characters, halves of characters, and what turns the direction of writing; a file may
    have them in its name. `kept` are left as they are.
    """
    return "".join(each if each in kept or not _is_obeyed(each) else "?" for each in text)


def say(message: str) -> None:
    """Print a message, which is one line."""
    print(printable(message), file=sys.stderr)


def log_to_terminal() -> None:
    """Let log lines be messages."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), LINES)


def _is_obeyed(character: str) -> bool:
    if " " <= character <= "~":
        return False
    return unicodedata.category(character) in {"Cc", "Cs"} or unicodedata.bidirectional(character) in _TURNS
