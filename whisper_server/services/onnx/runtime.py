"""onnxruntime, told to send nothing to its maker; all modules import it from here.

From 1.29 on its wheels report every session, with the names and hashes of models, unless this variable says
otherwise before they are loaded (onnxruntime's telemetry_1ds.cc). They do so from native code, where nothing
in Python could see or stop it.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as onnxruntime  # noqa: PLC0414, TID251

onnxruntime.disable_telemetry_events()  # Windows' own way, which older versions have as well
