"""A folder of recordings and what is known of each: its `index.json`, mended by `corrections.json`.

An entry of the index: `file`, `language` (a code, `en+de` for two, null), `seconds`, `transcript` (empty:
nobody speaks; null: not known), `what` it is, and if it is known `word_times_s`: start and end of each word
of the transcript in seconds from the beginning of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

CORRECTIONS = Path(__file__).parent / "corrections.json"


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of the folder."""

    file: str
    language: str | None
    seconds: float | None
    transcript: str | None  # empty: there is no speech in it; None: not known
    kind: str
    word_times_s: tuple[tuple[float, float], ...] = ()  # of the words of the transcript; empty: not known
    also: str | None = None  # the transcript spelled in another way: what is nearer counts

    @property
    def is_speech(self) -> bool:
        return self.transcript != ""

    @property
    def is_scored(self) -> bool:
        """Return whether errors can be counted: it is known what is said, or that nothing is."""
        return self.transcript is not None

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.language.split("+")) if self.language else ()


def read(folder: Path, corrections: Path | None = CORRECTIONS) -> list[Recording]:
    """Return the recordings of the folder's index, mended."""
    entries = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    mended = json.loads(corrections.read_text(encoding="utf-8")) if corrections else {}
    return [recording(entry, mended.get(entry["file"], {})) for entry in entries]


def recording(entry: Mapping[str, Any], correction: Mapping[str, Any]) -> Recording:
    """Return an entry of the index as it is meant.

    A correction has a `reason` and: `leave_out` (the transcript is not used), `transcript` (another one),
    `replace` (pairs of a part of the transcript and what stands there in truth), `also` (pairs of a part and
    how it may be spelled as well: numbers, compounds), `language`, `word_times_s`.

    Raises:
        ValueError: a part that is to be replaced is not in the transcript: the index has changed.
    """
    transcript = correction.get("transcript", entry.get("transcript"))
    if correction.get("leave_out"):
        transcript = None
    transcript = _replaced(transcript, correction.get("replace", ()), entry["file"])
    also = _replaced(transcript, correction["also"], entry["file"]) if "also" in correction else None
    times = correction.get("word_times_s", entry.get("word_times_s", ()))
    return Recording(
        entry["file"],
        correction.get("language", entry.get("language")),
        entry.get("seconds"),
        transcript,
        kind_of(entry.get("what") or "not said"),
        tuple((float(start), float(end)) for start, end in times),
        also,
    )


def _replaced(transcript: str | None, pairs: Iterable[Sequence[str]], file: str) -> str | None:
    for part, truth in pairs:
        if part not in (transcript or ""):
            raise ValueError(f"{file}: {part!r} is not in its transcript; mend the correction")
        transcript = (transcript or "").replace(part, truth)
    return transcript


def kind_of(what: str) -> str:
    """Return the kind of a recording: what the index says up to its first detail."""
    return re.split(r"[;:]", what)[0].strip()


def chosen(found: Sequence[Recording], patterns: Collection[str], limit: int | None) -> list[Recording]:
    """Return the recordings whose names have one of the patterns (`*` and `?` count), at most `limit`.

    With a limit they are spread over the whole index, whose neighbours are of the same source.
    """
    if patterns:
        found = [each for each in found if any(fnmatch(each.file, f"*{part}*") for part in patterns)]
    if limit is None or limit >= len(found):
        return list(found)
    return [found[index * len(found) // limit] for index in range(limit)]
