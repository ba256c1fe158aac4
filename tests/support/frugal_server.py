"""A server whose allocator keeps little that was freed: `python -m tests.support.frugal_server FLAGS`.

Pieces beyond 256 KiB are mapped, and so handed back as they are freed: what is in memory is what it holds.
"""

from __future__ import annotations

from whisper_server.api.server.run import run
from whisper_server.core.system import allocator

if __name__ == "__main__":
    allocator._MAPPED_BYTES = 256 << 10
    run()
