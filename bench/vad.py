"""What voice detection takes: `python -m bench.vad [--runs 15]`; processor time on one thread.

Silero's network as the file has it, in convolutions, and as the server runs it, in matrices, by turns in one
process and over the same speech: in calls of 8 s, which files give, and of 1 s.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import audio
from bench.figures import Spread, better_by, table
from whisper_server.services import silero
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.silero import FRAME_SAMPLES
from whisper_server.services.silero_graph import STATE, in_matrices

CALLS = 20  # in a row, of which the mean counts: one alone is too short for the clock


def speech(n_frames: int) -> NDArray[np.float32]:
    """Return frames of speech, float32 [n_frames, 576]."""
    processor = AudioProcessor(max_bytes=1 << 30, max_seconds=3600)
    with processor.open(audio.long(minutes=1.0).data) as stream:
        block = next(stream.blocks())
    return silero.frames(block)[:n_frames]


def ms_per_call(session: Any, part: NDArray[np.float32]) -> float:
    """Return milliseconds of processor time of a call."""
    state = np.zeros(STATE, dtype=np.float32)
    begin = time.process_time()
    for _ in range(CALLS):
        session.run(None, {"input": part, "h": state, "c": state})
    return 1000 * (time.process_time() - begin) / CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    model = silero.model_file().read_bytes()
    sessions = [silero.session_of(each) for each in (model, in_matrices(model))]
    rows = []
    for n_frames in (silero.RUN_FRAMES, 32):
        part = speech(n_frames)
        pairs = [[ms_per_call(session, part) for session in sessions] for _ in range(1 + args.runs)][1:]
        file, matrices = (Spread.of([pair[side] for pair in pairs]) for side in (0, 1))
        ahead = better_by(matrices.median, file.median, higher_is_better=False)
        seconds = n_frames * FRAME_SAMPLES / audio.RATE
        rows.append([f"{seconds:.0f} s of audio", file.shown(2), matrices.shown(2), f"{ahead:.2f} x"])
    print(table(["ms, median (min - max)", "as in the file", "in matrices", "times faster"], rows))


if __name__ == "__main__":
    main()
