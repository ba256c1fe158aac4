"""How the server and a decoder process talk: framed messages over two pipes.

One side asks and the other answers; in the middle of a step, the child asks back for bytes of the file. Owns
the frames and nothing else; no NumPy, because the child lives without it.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import IO, Any, NamedTuple

CHILD_WORD = "decoder-process"  # the command line by which the one-file program becomes the child

_HEADER = struct.Struct("<BIIQ")  # kind, decoder, number, bytes that follow


class Kind(IntEnum):
    """What a message says. Server: OPEN, STEP, BYTES, CLOSE; child: all others."""

    READY = 0  # libav is loaded
    OPEN = 1  # JSON: size_bytes, max_seconds, choice (the fields of TrackChoice), spent, has_checked_tables
    STEP = 2  # JSON: channel, spent (by other decoders of the request); read the next pieces
    CLOSE = 3  # no answer
    READ = 4  # number: how many bytes; data: from where, as JSON
    BYTES = 5  # the answer to READ
    OPENED = 6  # JSON: info (the fields of AudioInfo, and of each Track in it), and the state
    PIECE = 7  # number: channels; data: samples
    MORE = 8  # the step is done, the file is not; JSON: the state
    END = 9  # the file is done; JSON: the state
    FAILED = 10  # JSON: error, message, and the state


# The state of the child after a request: spent (the numbers of `budget.Spent`, of this decoder),
# resident_bytes (of the process; 0 where the system does not tell).


class Message(NamedTuple):
    """One frame."""

    kind: Kind
    decoder: int = 0  # which of those that are open
    number: int = 0
    data: bytes = b""

    def fields(self) -> Any:
        """Return the JSON that the message carries."""
        return json.loads(self.data)


def send(pipe: IO[bytes], kind: Kind, decoder: int = 0, number: int = 0, data: bytes = b"") -> None:
    """Write one message; blocks while the other side does not read.

    Raises:
        OSError: there is no other side any more.
    """
    pipe.write(_HEADER.pack(kind, decoder, number, len(data)))
    pipe.write(data)
    pipe.flush()


def packed(fields: dict[str, Any]) -> bytes:
    """Return fields as the data of a message."""
    return json.dumps(fields).encode()


def receive(pipe: IO[bytes]) -> Message | None:
    """Read one message; None where the other side has ended, be it in the middle of a message."""
    header = pipe.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    kind, decoder, number, size = _HEADER.unpack(header)
    data = pipe.read(size) if size else b""
    return Message(Kind(kind), decoder, number, data) if len(data) == size else None
