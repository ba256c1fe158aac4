"""Throughput of the engine `torch`: audio seconds per second, by size, number format, batch and compilation.

    python -m bench.experiments.torch_throughput --device cuda:0 --folder build/grown
    python -m bench.experiments.torch_throughput --engines ctranslate2 torch --device cpu --sizes tiny \
        --compute-types float32 int8 --batches 1 4 --compile off

Models are the nano model grown to the published shapes (`bench.grow`), so that every window is decoded to its
true end. large-v3 and turbo have the shapes of large-v2 with 128 mel bands, of which the upper 48 are not
listened to, and turbo four decoder layers; their text means nothing, they serve for timing.
Prints a table in Markdown. A cell that the device has no memory for is a dash.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from itertools import product
from pathlib import Path

import numpy as np

from bench.audio import samples_of
from bench.grow import NANO, SHAPES, grow
from whisper_server.core.errors import DeviceOutOfMemory, ModelUnavailable
from whisper_server.services.engines.base import Engine, EngineSpec, Sampling
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.speech import log_mel

SIZES = (*SHAPES, "large-v3", "large-v3-turbo")
COMPUTE_TYPES = ("float16", "bfloat16", "int8")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
REPEATS = 3
TURBO_LAYERS = 4
V3_MELS = 128


def model_folder(size: str, home: Path) -> Path:
    """Return a folder with a model of this size, made on first use."""
    folder = home / size
    if (folder / "model.safetensors").is_file():
        return folder
    if size in SHAPES:
        return grow(SHAPES[size], folder)
    return _widened_for_timing(model_folder("large-v2", home), folder, is_turbo="turbo" in size)


def _widened_for_timing(source: Path, folder: Path, *, is_turbo: bool) -> Path:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    conv = tensors["model.encoder.conv1.weight"]
    tensors["model.encoder.conv1.weight"] = np.pad(conv, ((0, 0), (0, V3_MELS - conv.shape[1]), (0, 0)))
    config = json.loads((source / "config.json").read_text()) | {"num_mel_bins": V3_MELS}
    if is_turbo:
        config["decoder_layers"] = TURBO_LAYERS
        dropped = tuple(f"model.decoder.layers.{index}." for index in range(TURBO_LAYERS, 32))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(dropped)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def clips(n_mels: int) -> list[tuple[np.ndarray, float]]:
    """Return (mel, seconds) of the densest bundled clips."""
    entries = json.loads((NANO / "samples" / "clips.json").read_text(encoding="utf-8"))
    found = []
    for entry in entries:
        if entry["kind"] == "dense":
            samples = samples_of(NANO / "samples" / entry["file"])
            found.append((log_mel.log_mel(samples, n_mels), len(samples) / 16_000))
    return found


def speed(engine: Engine, batch: int, beam_size: int) -> float:
    """Return audio seconds per second of one batch, the median of some calls; one more warms up."""
    bundled = clips(engine.info.n_mels)
    chosen = [bundled[index % len(bundled)] for index in range(batch)]
    mels = np.stack([mel for mel, _ in chosen])
    prompts = [engine.tokenizer.start_sequence("en", "transcribe")] * batch
    walls = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        engine.generate(engine.encode(mels), prompts, Sampling(beam_size, 0.0))
        walls.append(time.perf_counter() - started)
    return sum(seconds for _, seconds in chosen) / statistics.median(walls[1:])


def cell(engine: Engine, batch: int, beam_size: int) -> str:
    """Return what the table shows."""
    try:
        return f"{speed(engine, batch, beam_size):.1f}"
    except DeviceOutOfMemory:
        return "-"


def row(folder: Path, spec: EngineSpec, batches: list[int], cache_dir: Path) -> str:
    """Return a line of the table, or why there is none."""
    head = f"| {folder.name} | {spec.engine} |"
    try:
        engine = load_engine(folder, spec, cache_dir)
    except ModelUnavailable as error:
        return f"{head} {spec.compute_type} | {'on' if spec.compiles else 'off'} | {error} |"
    try:
        cells = [cell(engine, batch, spec.beam_size) for batch in batches]
    finally:
        engine.close()
    return f"{head} {engine.info.compute_type} | {'on' if spec.compiles else 'off'} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["torch"], choices=["torch", "ctranslate2"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--folder", type=Path, default=Path("build/grown"))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--compute-types", nargs="+", default=list(COMPUTE_TYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--compile", nargs="+", default=["off", "on"], choices=["off", "on"])
    parser.add_argument("--beam-size", type=int, default=5)
    given = parser.parse_args()
    batches = " | ".join(f"batch {size}" for size in given.batches)
    print(f"| model | engine | compute type | compiled | {batches} |")
    print("| --- " * (4 + len(given.batches)) + "|")
    for size in given.sizes:
        folder = model_folder(size, given.folder)
        for engine, compute_type, compiled in product(given.engines, given.compute_types, given.compile):
            compiles = compiled == "on"
            if compiles and engine != "torch":
                continue
            spec = EngineSpec(
                engine, given.device, compute_type, compiles=compiles, beam_size=given.beam_size
            )
            print(row(folder, spec, given.batches, given.folder / "cache"), flush=True)


if __name__ == "__main__":
    main()
