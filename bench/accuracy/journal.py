"""What was heard, on disk, a line for each request: a run that was cut off goes on where it stopped.

Two answers can stand for each other if they are of the same recording and of the same server with the same
options; of ours, of the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.accuracy.listeners import OURS, PEERS, Heard
from bench.serving import environments, journal
from bench.serving.servers import Setup


class Journal:
    """The answers of one server; `get` those that are there, `add` new ones."""

    def __init__(self, file: Path, key: str) -> None:
        """Read `file`, whose answers count if they have this key; it is made with the first answer."""
        self._file, self._key = file, key
        self._known = dict(self._read())

    def _read(self) -> Iterator[tuple[tuple[str, int, str], Heard]]:
        for line in self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []:
            kept = json.loads(line)
            if kept.pop("key") == self._key:
                about = (kept.pop("file"), kept.pop("bytes"), kept.pop("asked"))
                kept["words"] = [(word, start, end) for word, start, end in kept["words"]]
                yield about, Heard(**kept)

    def get(self, path: Path, asked: str) -> Heard | None:
        """Return what was heard in this file when it was asked for in this way."""
        return self._known.get((path.name, path.stat().st_size, asked))

    def add(self, path: Path, asked: str, heard: Heard) -> None:
        """Keep an answer; an error only until the command ends: the next one asks again."""
        n_bytes = path.stat().st_size
        self._known[path.name, n_bytes, asked] = heard
        if heard.error:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        about = {"key": self._key, "file": path.name, "bytes": n_bytes, "asked": asked}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**about, **asdict(heard)}, ensure_ascii=False) + "\n")


def key(name: str, setup: Setup, *, gives_language: bool, url: str | None = None) -> str:
    """Say what an answer depends on besides the recording."""
    weights = setup.weights / "model.safetensors" if setup.weights else Path()
    about = (name, setup.size, setup.beam, setup.serves, gives_language, url, weights.stat().st_size)
    made = hashlib.sha256(repr(about).encode())
    if url is None and name == OURS:
        made.update(journal.code())
    elif url is None:
        made.update(repr(environments.PINNED).encode())
        for script in sorted(PEERS.glob("*.py")):
            made.update(script.read_bytes())
    return made.hexdigest()
