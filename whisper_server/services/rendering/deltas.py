"""Segments -> pieces of text that join to exactly `Transcript.text`; pure."""

from __future__ import annotations


class Deltas:
    """Cuts a transcript's text into what each segment adds to it.

    `Transcript.text` has no white space around it. The end is not known before it is there: white
    space that ends a segment is held back until more text follows.
    """

    def __init__(self) -> None:
        self._held: str | None = None  # None: nothing said yet

    def add(self, text: str) -> str:
        """Return what a segment's text adds; empty where it is white space only."""
        if self._held is None:
            text = text.lstrip()
        spoken = text.rstrip()
        if not spoken:
            self._held = self._held if self._held is None else self._held + text
            return ""
        delta = (self._held or "") + spoken
        self._held = text[len(spoken) :]
        return delta
