"""What chance depends on: the sound, the request's seed and the attempt, and nothing else.

Pure. Attempts above temperature 0 draw numbers. Seeded by what they are about, they give the same text
alone and in a crowd, today and after a restart.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper_server.core.types import Mel


def of_attempt(mel: Mel, seed: int, temperature: float) -> int:
    """Return the seed, unsigned 64 bits, of an attempt at float32 [n_mels, n_frames]; takes a millisecond."""
    digest = blake2b(struct.pack("<qd", seed, temperature), digest_size=8)
    digest.update(mel.tobytes())
    return int.from_bytes(digest.digest(), "little")
