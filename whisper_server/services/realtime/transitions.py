"""What can happen to a session's buffer in each of its states, and what is done then; a table, and no code.

`session` has the theory of operation, and the methods that are named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class State(Enum):
    """Of the buffer."""

    WAITING = auto()
    SPEAKING = auto()
    COLLECTING = auto()


class Cause(Enum):
    """What happens to a buffer."""

    SPEECH_STARTED = auto()
    SPEECH_STOPPED = auto()
    COMMIT = auto()  # by the client
    CLEAR = auto()  # by the client
    FULL = auto()  # it holds as much as a turn may
    IDLE = auto()  # nobody has spoken for `idle_timeout_ms`
    DETECT = auto()  # detection is turned on, or set differently
    COLLECT = auto()  # detection is turned off


_S, _C = State, Cause
# What is done are methods of `Session`, in this order.
TRANSITIONS: Mapping[tuple[State, Cause], tuple[State, tuple[str, ...]]] = {
    (_S.WAITING, _C.SPEECH_STARTED): (_S.SPEAKING, ("_announce_start",)),
    (_S.WAITING, _C.COMMIT): (_S.WAITING, ("_commit",)),
    (_S.WAITING, _C.CLEAR): (_S.WAITING, ("_clear",)),
    (_S.WAITING, _C.IDLE): (_S.WAITING, ("_announce_timeout", "_commit")),
    (_S.WAITING, _C.DETECT): (_S.WAITING, ("_detect",)),
    (_S.WAITING, _C.COLLECT): (_S.COLLECTING, ()),
    (_S.SPEAKING, _C.SPEECH_STOPPED): (_S.WAITING, ("_announce_stop", "_commit")),
    (_S.SPEAKING, _C.COMMIT): (_S.WAITING, ("_announce_stop", "_commit", "_detect")),
    (_S.SPEAKING, _C.FULL): (_S.WAITING, ("_announce_stop", "_commit", "_detect")),
    (_S.SPEAKING, _C.CLEAR): (_S.WAITING, ("_clear", "_detect")),
    (_S.SPEAKING, _C.DETECT): (_S.SPEAKING, ("_redetect",)),
    (_S.SPEAKING, _C.COLLECT): (_S.COLLECTING, ()),
    (_S.COLLECTING, _C.COMMIT): (_S.COLLECTING, ("_commit",)),
    (_S.COLLECTING, _C.FULL): (_S.COLLECTING, ("_commit",)),
    (_S.COLLECTING, _C.CLEAR): (_S.COLLECTING, ("_clear",)),
    (_S.COLLECTING, _C.DETECT): (_S.WAITING, ("_detect",)),
    (_S.COLLECTING, _C.COLLECT): (_S.COLLECTING, ()),
}
