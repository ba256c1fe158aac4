"""A server whose allocator keeps little that was freed: `python -m tests.support.frugal_server FLAGS`.

Pieces beyond 256 KiB are mapped, and so handed back as they are freed: what is in memory is what it holds.
"""

from __future__ import annotations

from whisper_server.api.server.run import run
from whisper_server.core.system import allocator

# What the allocator of other servers keeps of memory that was freed, at most: see `core.system.allocator`.
KEPT_BYTES = 2 * (64 << 20)


def keep_little() -> None:
    """Let the allocator of this process keep little; call it before the server starts."""
    allocator._MAPPED_BYTES = 256 << 10


if __name__ == "__main__":
    keep_little()
    run()
