"""What the server costs over its bare engine: `python -m bench.experiments.overhead [--sizes tiny] [--runs
5]`.

The engine is loaded in this process and given full batches of windows that are ready, on as many threads
as it takes: no queue, no HTTP, no decoding of audio, no voice detection, no spectrograms. The server answers
16 clients that send the same clips, one window each. Both run by turns, on the same cores; those of the load
generator are taken from the server's share.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import audio
from bench.figures import Spread, table
from bench.grow import SHAPES
from bench.serving import environments
from bench.serving.servers import OURS, Setup, Started, checkpoint, running
from bench.serving.visit import load
from whisper_server.core.config import load_settings
from whisper_server.core.types import DecodeOptions, Window, WindowJob
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.engines.base import Engine
from whisper_server.services.loaded_models.loader import ModelLoader, WhisperModel, decoder_of
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.speech import vad, windows

CLIENTS = 16


def ready_windows(n_mels: int) -> list[Window]:
    """Return the windows of the mix; every clip is one."""
    processor = AudioProcessor(max_bytes=1 << 30, max_seconds=3600)
    found: list[Window] = []
    for clip in audio.mix():
        with processor.open(clip.data) as stream:
            (window,) = [each for each in windows.pack(vad.steps(stream.blocks()), n_mels) if each]
            found.append(window)
    return found


def bare_model(setup: Setup) -> tuple[WhisperModel, int]:
    """Load the setup's model in this process, as the server loads it; also return the server's beam."""
    os.environ["OMP_NUM_THREADS"] = str(setup.cores)
    overrides = {"model": str(checkpoint(setup)), "cache_dir": str(setup.build / "cache"), "offline": True}
    settings = load_settings(overrides)
    catalog = Catalog(settings)
    return ModelLoader(settings)(catalog.resolve(catalog.default)), settings.beam_size


def engine_per_s(engine: Engine, ready: list[Window], n_requests: int, beam: int) -> float:
    """Return windows per second of the engine alone: full batches, as many at once as it takes."""
    decode = decoder_of(engine)
    jobs = [
        WindowJob(window, language=None) for window in itertools.islice(itertools.cycle(ready), n_requests)
    ]
    most = engine.info.max_batch
    batches = [jobs[start : start + most] for start in range(0, len(jobs), most)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(engine.info.workers) as pool:
        list(pool.map(lambda batch: decode(batch, DecodeOptions(beam_size=beam)), batches))
    return n_requests / (time.perf_counter() - begin)


def server_per_s(server: Started, name: str, n_requests: int) -> float:
    """Return requests per second of the server with its clients."""
    flags = ("--clients", str(CLIENTS), "--requests", str(n_requests))
    outcome = load(server, name, *flags)
    assert all(reply["status"] == 200 for reply in outcome["replies"])
    return float(n_requests / outcome["wall_s"])


def measure(setup: Setup, runs: int, seconds: float) -> list[tuple[float, float]]:
    """Return (engine, server) in requests per second, by turns."""
    model, beam = bare_model(setup)
    try:
        ready = ready_windows(model.engine.info.n_mels)
        n_requests = max(CLIENTS, round(seconds * engine_per_s(model.engine, ready, CLIENTS, beam)))
        with running(OURS, setup) as server:
            server_per_s(server, checkpoint(setup).name, CLIENTS)
            return [
                (
                    engine_per_s(model.engine, ready, n_requests, beam),
                    server_per_s(server, checkpoint(setup).name, n_requests),
                )
                for _ in range(runs)
            ]
    finally:
        model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=("nano", *SHAPES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="about how long each takes")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        pairs = measure(Setup(size, cores=args.cores, build=args.build.resolve()), args.runs, args.seconds)
        engine, server = (Spread.of([pair[side] for pair in pairs]) for side in (0, 1))
        share = Spread.of([100 * through / bare for bare, through in pairs])
        rows.append([size, engine.shown(2), server.shown(2), share.shown(1)])
    print(table(["median (min - max)", "engine, windows/s", "server, requests/s", "share, %"], rows))


if __name__ == "__main__":
    main()
