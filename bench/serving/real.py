"""This server against faster-whisper on real weights: what short clips cost.

    python -m bench.serving.real RECORDINGS WEIGHTS --runs 3

RECORDINGS and WEIGHTS as in bench.accuracy. Latency of clips of 2, 5, 10 and 30 s (cut from speech), requests
per second of 16 clients that send recordings of 1 to 15 s, time to the first transcript and memory; and the
processor time of each, which says more where the machine is not idle. The servers are visited by turns; the
table has medians.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.accuracy import recordings
from bench.figures import Spread, better_by, table
from bench.serving import environments
from bench.serving.load import ROUTE
from bench.serving.servers import COMMANDS, OURS, Setup, prepare, processor, running
from whisper_server.core.errors import WhisperServerError
from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.audio_processor import AudioProcessor

LENGTHS_S = (2, 5, 10, 30)
MIX_S = (1.0, 15.0)
CLIENTS = 16
REST_S = 2.0  # before the memory is read
HIGHER_IS_BETTER = "requests/s"


def speech(folder: Path) -> list[NDArray[np.float32]]:
    """Return the recordings in which somebody speaks, as samples, by length."""
    processor_of_audio, found = AudioProcessor(1 << 30, 36_000.0), []
    for each in recordings.read(folder):
        if each.languages == ("en",) and each.is_speech and (each.seconds or 0) <= max(LENGTHS_S):
            try:
                with processor_of_audio.open(folder / each.file) as stream:
                    found.append(np.concatenate(list(stream.blocks())))
            except (WhisperServerError, ValueError):  # ValueError: it holds no sound
                continue
    return sorted(found, key=len)


def of_length(found: Sequence[NDArray[np.float32]], seconds: int) -> bytes:
    """Return the beginning of the shortest recording that is so long."""
    n_samples = seconds * SAMPLE_RATE
    return wav(next(each for each in found if len(each) >= n_samples)[:n_samples])


def wav(samples: NDArray[np.float32]) -> bytes:
    """Return a WAV file, 16 kHz, mono, 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


def ask(client: httpx.Client, data: bytes, model: str) -> float:
    """Return how long a request takes (s)."""
    began = time.perf_counter()
    files = {"file": ("clip.wav", data, "audio/wav")}
    client.post(ROUTE, data={"model": model}, files=files).raise_for_status()
    return time.perf_counter() - began


def visit(
    name: str, setup: Setup, clips: dict[int, bytes], mix: Sequence[bytes], repeats: int
) -> dict[str, float]:
    """Return the figures of one life of a server."""
    assert setup.weights is not None
    model, figures = setup.weights.name, dict[str, float]()
    limits = httpx.Limits(max_connections=CLIENTS)
    with (
        running(name, setup) as server,
        httpx.Client(base_url=server.url, timeout=None, limits=limits, trust_env=False) as client,
    ):
        ask(client, clips[5], model)
        figures["first transcript, s"] = time.perf_counter() - server.started_at
        time.sleep(REST_S)
        figures["memory with the model, MB"] = server.memory_mb()
        for seconds, data in clips.items():
            before_s = server.processor_s()
            figures[f"{seconds} s clip, s"] = median(ask(client, data, model) for _ in range(repeats))
            figures[f"{seconds} s clip, processor s"] = (server.processor_s() - before_s) / repeats
        began, before_s = time.perf_counter(), server.processor_s()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda data: ask(client, data, model), mix))
        figures[HIGHER_IS_BETTER] = len(mix) / (time.perf_counter() - began)
        figures["a request of 16 clients, processor s"] = (server.processor_s() - before_s) / len(mix)
        figures["memory after 16 clients, MB"] = server.memory_mb()
    return figures


def report(visits: dict[str, list[dict[str, float]]]) -> str:
    """Return the table: medians, and how many times better ours is."""
    rows = []
    for figure in next(iter(visits.values()))[0]:
        spreads = {name: Spread.of([each[figure] for each in found]) for name, found in visits.items()}
        cells = [figure]
        for name, spread in spreads.items():
            higher = figure == HIGHER_IS_BETTER
            times = better_by(spreads[OURS].median, spread.median, higher_is_better=higher)
            cells.append(spread.shown(2) + (f", {times:.2f} x" if name != OURS else ""))
        rows.append(cells)
    return table(["median (min - max), times ours is better", *visits], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--servers", nargs="+", default=[OURS, "faster-whisper"], choices=sorted(COMMANDS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="requests of one clip in a run")
    parser.add_argument("--requests", type=int, default=32, help="of the 16 clients in a run")
    parser.add_argument("--beam", type=int, default=0, help="of all; 0: the default of each")
    parser.add_argument("--serves", nargs="*", default=[], help="more flags for this server")
    parser.add_argument("--build", type=Path, default=environments.BUILD)
    given = parser.parse_args()
    build, weights = given.build.resolve(), given.weights.resolve()
    setup = Setup(weights.name, given.beam, build=build, weights=weights, serves=tuple(given.serves))
    found = speech(given.recordings)
    clips = {seconds: of_length(found, seconds) for seconds in LENGTHS_S}
    shortest, longest = (seconds * SAMPLE_RATE for seconds in MIX_S)
    mixed = [wav(each) for each in found if shortest <= len(each) <= longest]
    mix = random.Random(1).choices(mixed, k=given.requests)
    prepare(setup, given.servers)
    visits: dict[str, list[dict[str, float]]] = {name: [] for name in given.servers}
    for run in range(given.runs):
        for name in given.servers if run % 2 == 0 else reversed(given.servers):
            visits[name].append(visit(name, setup, clips, mix, given.repeats))
            print(json.dumps({"run": run + 1, "server": name, **visits[name][-1]}), file=sys.stderr)
    print(f"{processor()}, {setup.cores} cores; {weights.name}; {given.runs} runs\n\n{report(visits)}")


if __name__ == "__main__":
    main()
