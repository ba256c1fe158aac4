"""onnxruntime, told to send nothing to its maker; all modules import it from here.

From 1.29 on its wheels report every session, with the names and hashes of models, unless this variable says
otherwise before they are loaded (onnxruntime's telemetry_1ds.cc). They do so from native code, where nothing
in Python could see or stop it.

Where the library cannot be loaded, the import of this module raises `Unavailable`: once that has failed for
want of memory, its own registries stay half full, and it never can.
"""

from __future__ import annotations

import os

from whisper_server.core.errors import Unavailable

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

try:
    import onnxruntime as onnxruntime  # noqa: PLC0414, TID251
except ImportError as error:
    raise Unavailable(
        "The library onnxruntime cannot be loaded, maybe for want of memory; start the server again."
    ) from error

onnxruntime.disable_telemetry_events()  # Windows' own way, which older versions have as well
