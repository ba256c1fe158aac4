"""What 64 replicas would do: a cluster simulated with measured times.

    python -m bench.experiments.cluster_simulation [--service-ms 1680] [--clip-service-ms 600] [--front-ms 35]
    python -m bench.experiments.cluster_simulation --measure MODEL RECORDING [RECORDING ...]

The second form measures what the first takes for given: processor time of one thread for each window of the
recordings, and for their first seconds as a clip. The simulation is `bench.cluster_model`; what it assumes
and what it said is in `cluster_simulation.md`. The same numbers have the same tables.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.cluster_model import ENDLESS, Arrival, Cluster, Outcome, Plan, poisson, window_bytes
from bench.figures import percentile, table
from whisper_server.core.config import Settings, load_settings
from whisper_server.core.types import SAMPLE_RATE, WINDOW_S

CLIP_S = 5.0
CLIP = Arrival(0.0, 1, CLIP_S)
FILE_WINDOWS = round(3 * 3600 / WINDOW_S)
JOBS_AT_ONCE: int = Settings.model_fields["jobs_at_once"].default  # of a front
FRONTS = {1: (1,), 2: (1, 2), 4: (1, 2), 16: (1, 2, 4), 64: (1, 2, 4, 8)}
WARM_S, COUNTED_S = 30.0, 240.0
LATE_S = 20.0  # for the last clips
SEED = 25


def file_alone(plan: Plan, windows: int = FILE_WINDOWS, seed: int = SEED) -> Outcome:
    """Return what a file of so many windows, all speech, does to a cluster that has nothing else."""
    return Cluster(plan, seed).run([Arrival(0.0, windows, WINDOW_S)])


def under_load(plan: Plan, clips: float, *, has_jobs: bool, seed: int = SEED) -> Outcome:
    """Return what clips by chance do that take a share of the replicas' time, beside jobs that never end."""
    end_s = WARM_S + COUNTED_S
    rate_per_s = clips * plan.replicas / plan.clip_service_s
    arrivals = list(poisson(rate_per_s, end_s, seed, CLIP))
    if has_jobs:
        job = Arrival(0.0, ENDLESS, WINDOW_S, "background")
        arrivals += [job] * (JOBS_AT_ONCE * plan.fronts)
    return Cluster(plan, seed, (WARM_S, end_s)).run(arrivals)


def size_row(plan: Plan) -> list[str]:
    """Return how one cluster does."""
    alone = file_alone(plan)
    full = under_load(plan, 0.3, has_jobs=True)
    calm = under_load(plan, 0.7, has_jobs=False)
    return [
        str(plan.replicas),
        str(plan.fronts),
        f"{alone.ended_s:.0f}",
        alone.limit(),
        f"{full.audio_per_s:.0f}",
        f"{statistics.mean(full.replicas_busy):.0%}",
        f"{max(full.fronts_busy):.0%}",
        clip_times(full),
        full.limit(),
        clip_times(calm),
    ]


def clip_times(outcome: Outcome) -> str:
    """Return the median and the 99th percentile of a clip's time from arrival to answer, in seconds.

    Where more comes than is done, they would only say how long the run was.
    """
    if outcome.ended_s > WARM_S + COUNTED_S + LATE_S:
        return "grows"
    return f"{percentile(outcome.clip_s, 50):.2f} / {percentile(outcome.clip_s, 99):.2f}"


def network_row(plan: Plan) -> list[str]:
    """Return what a network does to one cluster."""
    alone, full = file_alone(plan), under_load(plan, 0.3, has_jobs=True)
    return [
        f"{plan.link_bytes_s * 8 / 1e6:.0f}",
        f"{plan.latency_s * 1000:.1f}",
        f"{alone.ended_s:.0f}",
        f"{full.audio_per_s:.0f}",
        f"{max(full.links_busy):.0%}",
        clip_times(full),
        full.limit(),
    ]


SIZE_HEADER = (
    "replicas",
    "fronts",
    "3 h alone, s",
    "its limit",
    "audio, s per s",
    "replicas busy",
    "busiest front",
    "clip, s",
    "limit",
    "clip without jobs, s",
)
NETWORK_HEADER = (
    "Mbit/s",
    "latency, ms",
    "3 h alone, s",
    "audio, s per s",
    "busiest link",
    "clip, s",
    "limit",
)


def simulate(plan: Plan) -> None:
    """Print the tables."""
    rows = [
        size_row(replace(plan, replicas=n, fronts=fronts))
        for n, several in FRONTS.items()
        for fronts in several
    ]
    print(table(SIZE_HEADER, rows))
    large = replace(plan, replicas=64, fronts=4)
    print("\n64 replicas, 4 fronts; a window is", f"{plan.bytes} bytes\n")
    networks = [(10_000, 0.1), (1000, 0.5), (1000, 20), (100, 0.5), (100, 20)]
    rows = [
        network_row(replace(large, link_bytes_s=mbit * 1e6 / 8, latency_s=latency_ms / 1000))
        for mbit, latency_ms in networks
    ]
    print(table(NETWORK_HEADER, rows))


def measure(folder: Path, recordings: list[Path]) -> None:
    """Print what one thread takes for a window, and for a clip."""
    with tempfile.TemporaryDirectory() as cache:
        whole, clips = zip(*times(folder, recordings, Path(cache)), strict=True)
    windows_s = [each for per_file in whole for each in per_file]
    for name, found in (("windows", windows_s), (f"clips of {CLIP_S:.0f} s", [*clips])):
        mean, deviation = statistics.mean(found), statistics.pstdev(found)
        low, high = min(found) * 1000, max(found) * 1000
        spread = f"spread {deviation / mean:.2f}, {low:.0f} to {high:.0f}"
        print(f"{len(found)} {name}: {mean * 1000:.0f} ms of processor time, {spread}")


def times(folder: Path, recordings: list[Path], cache: Path) -> Iterator[tuple[list[float], float]]:
    """Yield for each recording the seconds of each of its full windows, and those of a clip."""
    from whisper_server.core.types import DecodeOptions, WindowJob
    from whisper_server.services.audio_processor import AudioProcessor
    from whisper_server.services.loaded_models.loader import ModelLoader, decoder_of
    from whisper_server.services.model_files.catalog import Catalog
    from whisper_server.services.speech import vad, windows

    overrides = {"model": str(folder), "cache_dir": str(cache), "threads": 1, "decoder_processes": 0}
    settings = load_settings(overrides)
    catalog = Catalog(settings)
    model = ModelLoader(settings)(catalog.resolve(catalog.default))
    decode, n_mels = decoder_of(model.engine), model.engine.info.n_mels

    def seconds(samples: np.ndarray, least_s: float) -> list[float]:
        found = []
        for window in windows.pack(vad.steps([samples]), n_mels):
            if window is not None and window.duration_s >= least_s:
                began = time.process_time()
                decode([WindowJob(window, "en")], DecodeOptions(beam_size=settings.beam_size))
                found.append(time.process_time() - began)
        return found

    try:
        for file in recordings:
            with AudioProcessor(1 << 30, 86_400).open(file) as stream:
                samples = np.concatenate(list(stream.blocks()))
            clip = samples[: int(CLIP_S * SAMPLE_RATE)]
            seconds(clip, 0.0)  # the first call makes buffers
            yield seconds(samples, WINDOW_S / 2), sum(seconds(clip, 0.0))
    finally:
        model.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--service-ms", type=float, default=1680.0, help="of a replica, for a window")
    parser.add_argument("--clip-service-ms", type=float, default=600.0, help="of a replica, for a clip")
    parser.add_argument("--spread", type=float, default=0.27, help="of the first: deviation over mean")
    parser.add_argument("--clip-spread", type=float, default=0.8, help="of the second")
    parser.add_argument("--front-ms", type=float, default=35.0, help="of a front's core, for a window")
    parser.add_argument("--front-cores", type=int, default=1)
    parser.add_argument("--mbit", type=float, default=1000.0, help="of a front's link")
    parser.add_argument("--latency-ms", type=float, default=0.5, help="of the network, each way")
    parser.add_argument("--alone", type=int, metavar="WINDOWS", help="a file of so many, and nothing else")
    parser.add_argument("--measure", nargs="+", type=Path, metavar="MODEL RECORDING")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], arguments.measure[1:])
        return
    plan = Plan(
        1,
        1,
        arguments.service_ms / 1000,
        arguments.clip_service_ms / 1000,
        arguments.spread,
        arguments.clip_spread,
        arguments.front_ms / 1000,
        arguments.front_cores,
        arguments.mbit * 1e6 / 8,
        arguments.latency_ms / 1000,
        window_bytes(),
    )
    if not arguments.alone:
        simulate(plan)
        return
    for n in FRONTS:
        ended_s = file_alone(replace(plan, replicas=n), arguments.alone).ended_s
        print(f"{n} replicas, 1 front: {ended_s:.1f} s")


if __name__ == "__main__":
    main()
