"""Engine `ctranslate2`: CPU with int8, NVIDIA GPUs with float16; no torch.

On a CPU, onnxruntime runs the encoder (see `encoder_graph`) and CTranslate2 the decoder.

Imported by `load_engine` when a model is loaded, not before; the import of the library costs time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import ctranslate2
import numpy as np

from whisper_server.core.errors import EngineFailure, ModelUnavailable
from whisper_server.core.paths import without_paths
from whisper_server.core.types import WINDOW_FRAMES, WINDOW_S
from whisper_server.services.engines.audio_context import silence_after
from whisper_server.services.engines.base import EngineSpec, Sampling
from whisper_server.services.engines.checkpoint import broken
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.engine import ALIGNED_POSITIONS, CTranslate2Engine
from whisper_server.services.engines.ct2.folder import (
    ENCODER_FILE,
    MODEL_FILE,
    fingerprint_of,
    shape_of,
    weight_bytes,
)
from whisper_server.services.engines.ct2.prepared import prepared_folder
from whisper_server.services.engines.ct2.working_memory import Load
from whisper_server.services.engines.ct2.working_memory import working_bytes as _working_bytes
from whisper_server.services.engines.model_shape import AUDIO_POSITIONS, ModelShape
from whisper_server.services.engines.tokenizer import Tokenizer

if TYPE_CHECKING:
    from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder

log = logging.getLogger(__name__)

# First supported one wins. int8 keeps the weights small and the CPU's integer units busy; float16 is
# what tensor cores like.
_PREFERRED = {"cpu": ("int8", "int8_float32", "float32"), "cuda": ("float16", "int8_float16", "float32")}
# What onnxruntime runs the encoder in, by the type that CTranslate2 runs the decoder in; other types
# keep CTranslate2's encoder, which knows them.
_ONNX_ENCODERS = {"int8": "int8", "int8_float32": "int8", "float32": "float32"}
# Two calls at once, each with half of the threads, or with all of the encoder's while it is alone: decoding
# step by step keeps few cores busy. Windows per second of tiny and base on two cores
# (bench/experiments/workers.py): one worker 2.7 and 1.5 without batches, 3.5 and 1.9 in batches of four, two
# workers 4.9 and 2.2.
_WORKERS = 2
# Several threads gain 1.3 times from a batch of four, and from eight no more; one thread gains nothing, and a
# batch would only make its windows wait for each other, in four times the memory
# (bench/experiments/workers.py).
_MAX_BATCH = {"cpu": 4, "cuda": 16}
# What all windows that are decoded at once may take on a CPU, in keys and values of their audio, which stay
# until their texts are done: 18 MB each with tiny, 110 MB with small, where batches are cut for it. With two
# workers that costs little time, and the process at its busiest half the memory
# (bench/experiments/workers.md).
_KEYS_BYTES = 300_000_000


def load(folder: Path, spec: EngineSpec, cache_dir: Path) -> CTranslate2Engine:
    """Load the model in `folder`, converting it once into `cache_dir` where it is not CTranslate2's.

    Raises:
        ModelUnavailable: the folder is no model, or the device or compute type is not to be had.
    """
    converted, encoder = _prepared(folder, spec, cache_dir)
    engine = _open(converted, spec, encoder)
    if engine.info.device == "cpu":
        with _trying(folder):
            engine.compile_products(shape_of(converted).d_model)
    return engine


def prepare(folder: Path, spec: EngineSpec, cache_dir: Path) -> Path:
    """Convert and try the model as `load` would; return the folder to load. Raises as `load`."""
    return _prepared(folder, spec, cache_dir)[0]


def _prepared(folder: Path, spec: EngineSpec, cache_dir: Path) -> tuple[Path, str | None]:
    """Return the folder to load, and the number format of its ONNX encoder, None for CTranslate2's own."""
    _, compute_type, wanted = _choices(spec)
    encoder = _for_this_processor(wanted)
    return prepared_folder(folder, spec, cache_dir, _quantization(compute_type), encoder), encoder


def convert_and_try(
    folder: Path, spec: EngineSpec, cache_dir: Path, quantization: str, encoder: str | None
) -> None:
    """Do what `prepared_folder` does, in this process, which the files may end.

    Raises:
        WhisperServerError: the files are no model, or it does not work.
    """

    def try_out(made: Path) -> None:
        engine = _open(made, spec, encoder)
        with _trying(folder):
            _use_once(engine)

    if ensure_converted(folder, cache_dir, quantization, encoder, try_out) == folder:
        try_out(folder)


@contextmanager
def _trying(folder: Path) -> Iterator[None]:
    try:
        yield
    except EngineFailure as error:
        raise broken(folder, f"using it once failed ({error.message})") from error


def _use_once(engine: CTranslate2Engine) -> None:
    """Make every call of a transcript, with 30 s of noise."""
    tokenizer = engine.tokenizer
    noise = np.random.default_rng(0).standard_normal((1, engine.info.n_mels, WINDOW_FRAMES), dtype=np.float32)
    encoded = engine.encode(noise)
    if engine.info.is_multilingual:
        engine.detect_language(encoded)
    start = tokenizer.start_sequence("en", "transcribe")
    engine.generate(encoded, [start], Sampling(beam_size=1, temperature=0.0))
    engine.align(encoded, [start], [tokenizer.encode(" one two")], [WINDOW_FRAMES])


def _open(converted: Path, spec: EngineSpec, wanted: str | None) -> CTranslate2Engine:
    """Load a folder of CTranslate2, `wanted` being its ONNX encoder's number format. Raises as `load`."""
    device, compute_type, _ = _choices(spec)
    threads = spec.threads or os.cpu_count() or 1
    encoder = _onnx_encoder(converted, wanted, threads) if wanted else None
    workers = _workers(threads) if encoder else 1
    try:
        model = ctranslate2.models.Whisper(
            str(converted),
            device=device,
            compute_type=compute_type,
            inter_threads=workers,
            intra_threads=threads // workers,
        )
    except (RuntimeError, ValueError) as error:
        log.warning("%s cannot be loaded: %s", converted, error)
        reason = without_paths(f"{error}", converted)
        raise ModelUnavailable(f"The model cannot be loaded on {device}: {reason}") from error
    tokenizer = Tokenizer.from_file(converted / "tokenizer.json", is_multilingual=model.is_multilingual)
    return CTranslate2Engine(
        model,
        tokenizer,
        encoder,
        max_batch=max_batch_of(device, shape_of(converted), workers, threads),
        workers=workers,
        memory_bytes=weight_bytes(converted),
        working_bytes=working_bytes(converted, spec),
        silence_s=_silence_s(converted, device, spec),
    )


def _silence_s(converted: Path, device: str, spec: EngineSpec) -> float:
    """Return how much silence the encoder is to hear after the sound.

    On a GPU whole windows: its batches would fall apart into those of one length each.
    """
    if device != "cpu" or spec.audio_context == "full":
        return WINDOW_S
    return silence_after(fingerprint_of(converted))


def _onnx_encoder(converted: Path, kind: str, threads: int) -> OnnxEncoder | None:
    """Return the folder's ONNX encoder; CTranslate2 folders of other makers have none."""
    if not (converted / ENCODER_FILE).is_file():
        log.info(
            "%s was converted to CTranslate2 elsewhere: CTranslate2 runs its encoder too, slower than"
            " with a model in Hugging Face format.",
            converted.name,
        )
        return None
    from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder  # noqa: PLC0415  (CPU only)

    return OnnxEncoder(converted, kind, threads, _workers(threads))


def _workers(threads: int) -> int:
    return min(_WORKERS, threads)


def max_batch_of(device: str, shape: ModelShape, workers: int, threads: int) -> int:
    """Return how many windows go in a call: as many as the device gains from and memory is meant for."""
    if device != "cpu":
        return _MAX_BATCH[device]
    if threads // workers == 1:
        return 1
    keys_bytes = 2 * shape.decoder_layers * AUDIO_POSITIONS * shape.d_model * 4
    return max(1, min(_MAX_BATCH[device], _KEYS_BYTES // (workers * keys_bytes)))


def working_bytes(folder: Path, spec: EngineSpec) -> int:
    """Return what calls will take beside the weights of the model in `folder`, at most; loads nothing.

    Raises as `load`.
    """
    device, compute_type, wanted = _choices(spec)
    has_onnx = bool(wanted) and ((folder / ENCODER_FILE).is_file() or not (folder / MODEL_FILE).is_file())
    threads = spec.threads or os.cpu_count() or 1
    workers = _workers(threads) if has_onnx else 1
    shape = shape_of(folder)
    load = Load(
        workers=workers,
        max_batch=max_batch_of(device, shape, workers, threads),
        beam_size=spec.beam_size,
        aligned_positions=ALIGNED_POSITIONS,
        item_bytes=2 if device == "cuda" and compute_type.endswith("float16") else 4,
        encodes_one_by_one=has_onnx,
    )
    return _working_bytes(shape, load)


def _choices(spec: EngineSpec) -> tuple[str, str, str | None]:
    """Return the device, the decoder's number format, and the ONNX encoder's, None for CTranslate2's own."""
    device = _device(spec.device)
    compute_type = _compute_type(device, spec.compute_type)
    return device, compute_type, _ONNX_ENCODERS.get(compute_type) if device == "cpu" else None


def _for_this_processor(encoder: str | None) -> str | None:
    """Return the way to store the encoder's numbers with which this processor computes right."""
    if encoder != "int8":
        return encoder
    from whisper_server.services.engines.ct2.onnx_encoder import sums_are_exact  # noqa: PLC0415  (CPU only)

    return encoder if sums_are_exact() else "uint8"


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"


def _compute_type(device: str, wanted: str) -> str:
    """Return the best type the device supports, or the wanted one."""
    try:
        supported = ctranslate2.get_supported_compute_types(device)
    except (RuntimeError, ValueError) as error:
        raise ModelUnavailable(f"WHISPER_DEVICE: {device} cannot be used here: {error}") from error
    if wanted == "auto":
        return next(kind for kind in _PREFERRED[device] if kind in supported)
    if wanted not in supported:
        raise ModelUnavailable(
            f"WHISPER_COMPUTE_TYPE: {wanted!r} does not run on {device} here; use one of {sorted(supported)}."
        )
    return wanted


def _quantization(compute_type: str) -> str:
    """Return what to store on disk: int8 for int8 arithmetic, else what weights are published in."""
    if compute_type.startswith("int8"):
        return "int8"
    return "float32" if compute_type == "float32" else "float16"
