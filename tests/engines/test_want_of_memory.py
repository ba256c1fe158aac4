"""Memory that runs out under a loaded model: an error for the batch, never the end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only there a limit on data counts what is mapped"
)

# Loads the model, lets the process have so many more bytes, and makes a first call of each kind.
PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from whisper_server.core.system.memory import is_want_of_memory
from whisper_server.services.engines.base import EngineSpec, Sampling
from whisper_server.services.engines.ct2.load import load

folder, cache, left = sys.argv[1:]
engine = load(Path(folder), EngineSpec(device="cpu", compute_type="int8", threads=1), Path(cache))
encoded = engine.encode(np.zeros((1, engine.info.n_mels, 3000), np.float32))
start = engine.tokenizer.start_sequence("en", "transcribe")
status = Path("/proc/self/status").read_text()
used = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(left), resource.RLIM_INFINITY))
for call in (
    lambda: engine.detect_language(encoded),
    lambda: engine.generate(encoded, [start], Sampling(beam_size=5, temperature=0.0)),
    lambda: engine.tokenizer.encode(" one two"),
    lambda: engine.align(encoded, [start], [[400, 401]], [3000]),
    lambda: engine.encode(np.zeros((1, engine.info.n_mels, 3000), np.float32)),
):
    try:
        call()
        print("done")
    except Exception as error:
        assert is_want_of_memory(error) or "no memory" in str(error), repr(error)
        print("refused")
"""


@pytest.mark.parametrize("left_bytes", [0, 1_000_000, 4_000_000, 10_000_000, 20_000_000, 40_000_000])
def test_calls_are_refused_or_done(nano_cache: Path, left_bytes: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(NANO), str(nano_cache), str(left_bytes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert len(ended.stdout.split()) == 5
    assert set(ended.stdout.split()) <= {"done", "refused"}
