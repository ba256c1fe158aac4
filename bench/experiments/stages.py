"""Where a request's processor time goes: `python -m bench.experiments.stages [--sizes tiny base small]
[--runs 5]`.

The stages of the pipeline run one after the other in this process, over the clips of the mix, one window
each, in batches as large as the engine takes; the server answers 16 clients that send the same clips. What
the server takes beyond the stages is HTTP, queues and threads that wait for each other; the load generator
runs on the same cores. All in milliseconds of processor time per clip.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import audio
from bench.experiments.overhead import CLIENTS, bare_model
from bench.figures import Spread, table
from bench.grow import SHAPES
from bench.serving import environments
from bench.serving.servers import OURS, Setup, Started, checkpoint, running
from bench.serving.visit import load
from whisper_server.core.types import DecodeOptions, WindowJob
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.loaded_models.loader import WhisperModel, decoder_of
from whisper_server.services.speech import vad, windows
from whisper_server.services.speech.log_mel import log_mel

T = TypeVar("T")
Timed = dict[str, float]


def timed(times: Timed, stage: str, call: Callable[[], T]) -> T:
    """Run a call and add its processor time, of all threads, in seconds."""
    begin = time.process_time()
    try:
        return call()
    finally:
        times[stage] = times.get(stage, 0.0) + time.process_time() - begin


def prepare(clip: audio.Clip, n_mels: int, times: Timed) -> WindowJob:
    """Take one clip, of one window, through the stages before the engine."""
    processor = AudioProcessor(max_bytes=1 << 30, max_seconds=3600)
    stream = timed(times, "open the file", lambda: processor.open(clip.data))
    with stream:
        blocks = timed(times, "decode, resample, level", lambda: list(stream.blocks()))
    spans = timed(times, "voice detection", lambda: list(vad.spans(blocks)))
    samples = np.concatenate([span.samples for span in spans])
    timed(times, "spectrogram", lambda: log_mel(samples, n_mels))
    (window,) = [each for each in windows.pack(spans, n_mels) if each]
    return WindowJob(window, language=None)


def stages(model: WhisperModel, beam: int) -> Timed:
    """Return the processor time of each stage, in seconds per clip."""
    clips, times = audio.mix(), Timed()
    jobs = [prepare(clip, model.engine.info.n_mels, times) for clip in clips]
    engine, decode = model.engine, decoder_of(model.engine)
    most = engine.info.max_batch
    batches = [jobs[start : start + most] for start in range(0, len(jobs), most)]

    def all_batches(work: Callable[[Sequence[WindowJob]], Any]) -> None:
        with ThreadPoolExecutor(engine.info.workers) as pool:
            list(pool.map(work, batches))

    timed(
        times,
        "encoder",
        lambda: all_batches(lambda batch: engine.encode(np.stack([job.window.mel for job in batch]))),
    )
    timed(
        times,
        "encoder and decoder",
        lambda: all_batches(lambda batch: decode(batch, DecodeOptions(beam_size=beam))),
    )
    times["decoder, language, fallback"] = times.pop("encoder and decoder") - times["encoder"]
    return {stage: seconds / len(clips) for stage, seconds in times.items()}


def served(server: Started, name: str, n_requests: int) -> Timed:
    """Return the processor time per clip of the server and of its clients, in seconds."""
    before = server.processor_s()
    outcome = load(server, name, "--clients", str(CLIENTS), "--requests", str(n_requests))
    return {
        "server, all of it": (server.processor_s() - before) / n_requests,
        "load generator": outcome["processor_s"] / n_requests,
    }


def measure(setup: Setup, runs: int) -> Iterator[Timed]:
    """Yield what each run took, the engine and the server by turns."""
    model, beam = bare_model(setup)
    name, n_requests = checkpoint(setup).name, len(audio.mix())
    try:
        stages(model, beam)
        with running(OURS, setup) as server:
            served(server, name, CLIENTS)
            for _ in range(runs):
                alone = stages(model, beam)
                whole = served(server, name, n_requests)
                rest = whole["server, all of it"] - sum(alone.values())
                yield {**alone, "HTTP, queues, threads (the rest)": rest, **whole}
    finally:
        model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base", "small"], choices=("nano", *SHAPES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    args = parser.parse_args()
    columns: dict[str, list[Timed]] = {}
    for size in args.sizes:
        columns[size] = list(measure(Setup(size, cores=args.cores, build=args.build.resolve()), args.runs))
    names = dict.fromkeys(itertools.chain.from_iterable(run for runs in columns.values() for run in runs))
    rows = [
        [stage, *(Spread.of([1000 * run[stage] for run in runs]).shown(0) for runs in columns.values())]
        for stage in names
    ]
    print(table(["ms per clip, median (min - max)", *columns], rows))


if __name__ == "__main__":
    main()
