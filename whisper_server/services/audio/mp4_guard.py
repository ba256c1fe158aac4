"""Counts how many samples an MP4 claims to have, before libav allocates an index for them.

libav builds an index of 24 bytes per claimed sample while it opens the file: a header of 20 kB can make
it take 2.5 GB, and no option of libav limits that. So the run-length tables are read here first, in the
process that is going to open the file, which has no NumPy. Owns that arithmetic and nothing else.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper_server.core.errors import InvalidAudio

if TYPE_CHECKING:
    from whisper_server.services.audio.bounded_file import BoundedFile

TOO_MANY = "The file's header claims more samples than any recording has."
MAX_SAMPLES = 5_000_000  # 120 MB of index; four hours of film at 60 frames/s with sound have 1.6 million
MAX_PAIRS = MAX_SAMPLES  # table entries read in all: real ones are fewer than the samples they describe
MAX_TABLES = 500_000  # names of tables, by chance or not; a day of pieces of half a second has 200,000
MAX_BOX_BYTES = 64 << 20  # of one box that is searched; the largest real index has half of that
MAX_BOXES = 200_000  # at the top level; a stream cut into half-second pieces for a day has that many
ROOT_KINDS = {
    b"ftyp",
    b"styp",
    b"moov",
    b"moof",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
    b"uuid",
    b"pnot",
    b"prfl",
}
# What libav does not look into; but a moov may hide as the contents of the last two.
SKIPPED_KINDS = {b"mdat", b"wide", b"skip", b"uuid"}
HIDING_KINDS = {b"free", b"hoov"}
HIDDEN_KINDS = {b"mvhd", b"cmov"}  # their first box, if they do
# What a moov or moof is searched for as raw bytes, because libav accepts these boxes at any depth. In the
# cover picture of a music file one of the names turns up by chance, once in 600 MB of pictures.
TABLES = re.compile(rb"stsz|stz2|stts|ctts|trun|elst|cmov|soun|vide")


def check_mp4_tables(file: BoundedFile) -> None:
    """Leave the file at its beginning; a file that is no MP4 is left alone.

    Raises:
        InvalidAudio: the tables are compressed, or claim more samples than any recording has.
    """
    if file.size_bytes is None:
        return
    boxes = list(_root_boxes(file, file.size_bytes))
    counter = _Counter(file.size_bytes)
    if any(kind in ROOT_KINDS for kind, _, _ in boxes):
        for kind, start, end in boxes:
            if _is_searched(file, kind, start):
                if end - start > MAX_BOX_BYTES:
                    raise InvalidAudio("The file's header is larger than that of any recording.")
                file.seek(start)
                counter.add(file.read(end - start))
    file.seek(0)


def _is_searched(file: BoundedFile, kind: bytes, start: int) -> bool:
    """Tell whether libav looks for boxes in this one."""
    if kind in HIDING_KINDS:
        file.seek(start)
        return file.read(8)[4:] in HIDDEN_KINDS
    return kind not in SKIPPED_KINDS


def _root_boxes(file: BoundedFile, size_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the top-level boxes, contents only, as libav walks them."""
    start = 0
    for _ in range(MAX_BOXES):
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return
        size, kind = struct.unpack(">I4s", header[:8])
        skip = 8
        if size == 1 and len(header) == 16:
            size, skip = struct.unpack(">Q", header[8:])[0], 16
        end = size_bytes if size == 0 else min(start + size, size_bytes)
        if end < start + skip:
            return
        yield kind, start + skip, end
        start = end
    raise InvalidAudio("The file has too many parts.")


@dataclass
class _Counter:
    """Adds up what the tables claim, over all boxes of one file."""

    size_bytes: int
    tables: int = 0
    samples: int = 0
    pairs: int = 0
    times: int = 0
    edits: int = 1
    is_pcm: bool = True  # every stts since the last stsz says: one entry, one tick per sample
    is_sound: bool = False

    def add(self, body: bytes) -> None:
        """Count the tables of one box's contents."""
        for match in TABLES.finditer(body):
            self.tables += 1
            if self.tables > MAX_TABLES:
                raise InvalidAudio(TOO_MANY)
            self._add_table(
                match.group(), body[match.end() : match.end() + 12].ljust(12, b"\0"), body, match.end()
            )
            if self.samples * self.edits > MAX_SAMPLES or self.times > MAX_SAMPLES:
                raise InvalidAudio(TOO_MANY)

    def _add_table(self, kind: bytes, header: bytes, body: bytes, at: int) -> None:
        """Count one table; `header` is version and flags, then two numbers."""
        first, second = struct.unpack(">4xII", header)
        if kind in (b"soun", b"vide"):
            self.is_sound = kind == b"soun"
        elif kind in (b"stsz", b"stz2"):
            # libav indexes PCM by chunk; its samples are counted singly and have to be in the file.
            if not (self.is_pcm and self.is_sound and 0 < first * second <= self.size_bytes):
                self.samples += second
            self.is_pcm = True
        elif kind in (b"stts", b"ctts"):
            n_pairs = min(first, max(0, len(body) - at - 8) // 8)
            # Names that turn up one behind the other would each have all the rest of the file summed.
            self.pairs += n_pairs
            if self.pairs > MAX_PAIRS:
                raise InvalidAudio(TOO_MANY)
            pairs = array("I", body[at + 8 : at + 8 + 8 * n_pairs])  # 4 bytes each, wherever CPython runs
            if sys.byteorder == "little":
                pairs.byteswap()
            if kind == b"stts" and n_pairs == 1 and pairs[1] == 1:
                return
            self.is_pcm = False
            self.times += sum(pairs[::2])
        elif kind == b"trun":
            self.samples += first
        elif kind == b"elst":
            self.edits = max(self.edits, first)
        else:
            raise InvalidAudio("The file's header is compressed, which is not supported.")
