"""The memory that is counted for a model: by its sizes, and before and after it is loaded alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import NANO
from whisper_server.core.config import Settings
from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.types import ModelSource
from whisper_server.services.engines.base import EngineSpec
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.folder import shape_of, weight_bytes
from whisper_server.services.engines.ct2.working_memory import Load
from whisper_server.services.engines.ct2.working_memory import working_bytes as count
from whisper_server.services.engines.model_shape import ModelShape
from whisper_server.services.engines.registry import load_engine, working_bytes
from whisper_server.services.engines.torch.plan import busy_bytes
from whisper_server.services.model_files.prepare import expected_bytes

SMALL = ModelShape(768, 12, 51_865)
CPU = Load(
    workers=2,
    max_batch=4,
    beam_size=5,
    aligned_positions=256,
    item_bytes=4,
    encodes_one_by_one=True,
)
MB = 1_000_000


def nano_copy(folder: Path) -> Path:
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples"))
    return folder


def test_sizes_are_the_same_before_and_after_conversion(nano_cache: Path) -> None:
    expected = ModelShape(128, 4, 51_865)
    assert shape_of(NANO) == expected
    assert expected.heads == 2
    # With an encoder for onnxruntime, model.bin holds one layer of it.
    for encoder in (None, "int8"):
        assert shape_of(ensure_converted(NANO, nano_cache, "int8", encoder)) == expected


@pytest.mark.parametrize("damage", ["cut", "empty", "no model", "no number"])
def test_a_damaged_folder_is_told(tmp_path: Path, nano_cache: Path, damage: str) -> None:
    folder = nano_copy(tmp_path / "model")
    if damage in {"cut", "empty"}:
        whole = (ensure_converted(NANO, nano_cache, "int8", "int8") / "model.bin").read_bytes()
        (folder / "model.bin").write_bytes(whole[:100] if damage == "cut" else b"")
    else:
        config = json.loads((folder / "config.json").read_text())
        config.pop("d_model" if damage == "no number" else "model_type")
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match="'model' cannot be used"):
        shape_of(folder)


def test_what_counts() -> None:
    """Keys and values of small, by hand: 12 layers, 768 channels, 4 bytes, twice."""
    window, row = 2 * 12 * 1500 * 768 * 4, 2 * 12 * 448 * 768 * 4
    keys = 4 * window + 20 * row
    beside = 2.7 * 4 * 1500 * 768 * 8 + 100 * MB  # the audio with noise, and what is always there
    assert 2.7 * keys + beside < count(SMALL, CPU) < 2.7 * keys + beside + 100 * MB  # two workers, and gaps
    assert count(SMALL, replace(CPU, workers=1)) < 0.6 * count(SMALL, CPU)
    assert count(SMALL, replace(CPU, item_bytes=2)) < 0.6 * count(SMALL, CPU)
    assert count(SMALL, replace(CPU, beam_size=1)) < 0.6 * count(SMALL, CPU)


def test_beams_share_the_audio_and_have_a_text_each() -> None:
    row = 2 * 12 * 448 * 768 * 4
    more = count(SMALL, replace(CPU, beam_size=6)) - count(SMALL, CPU)
    assert 2.7 * 4 * row < more < 2.7 * 4 * row + 20 * MB  # the scores of the vocabulary


@pytest.mark.parametrize("name", ["workers", "max_batch", "beam_size", "aligned_positions", "item_bytes"])
def test_more_of_anything_is_never_less(name: str) -> None:
    for shape in (ModelShape(128, 4, 51_865), SMALL, ModelShape(1280, 32, 51_866)):
        more = replace(CPU, **{name: 4 * getattr(CPU, name)})
        assert count(shape, more) >= count(shape, CPU)
        assert count(shape, replace(CPU, encodes_one_by_one=False)) >= count(shape, CPU)


def test_known_before_it_is_loaded(tmp_path: Path) -> None:
    """What is expected from the files is what the engine says once it runs, in any state of the cache."""
    settings = Settings(_env_file=None, cache_dir=tmp_path, threads=2, engine="ctranslate2", device="cpu")
    source = ModelSource("nano", folder=NANO)
    unconverted = expected_bytes(source, settings)
    info = load_engine(NANO, EngineSpec(device="cpu", threads=2), tmp_path).info
    assert info.working_bytes > info.memory_bytes > 0
    assert expected_bytes(source, settings) == info.memory_bytes + info.working_bytes
    assert info.working_bytes < unconverted <= info.memory_bytes + info.working_bytes


def test_the_encoder_of_onnxruntime_counts_too(nano_cache: Path) -> None:
    lean = ensure_converted(NANO, nano_cache, "int8", "int8")
    assert weight_bytes(lean) > (lean / "model.bin").stat().st_size
    assert weight_bytes(lean) > (lean / "encoder.onnx.data").stat().st_size


def test_nothing_is_known_of_what_is_not_there(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, cache_dir=tmp_path)
    assert expected_bytes(ModelSource("theirs", repo="someone/nano"), settings) == 0


def test_folders_of_ctranslate2_run_one_worker(nano_cache: Path) -> None:
    spec = EngineSpec(device="cpu", threads=2)
    plain = ensure_converted(NANO, nano_cache, "int8")
    assert working_bytes(plain, spec) < working_bytes(NANO, spec)
    assert load_engine(plain, spec, nano_cache).info.working_bytes == working_bytes(plain, spec)


def test_an_engine_that_cannot_say_counts_nothing() -> None:
    assert working_bytes(NANO, EngineSpec("fake")) == 0


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # not ours
def test_the_torch_engine_says_so_once_it_is_loaded(nano_cache: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = EngineSpec("torch", device="cpu", threads=1)
    assert working_bytes(NANO, spec) == 0
    info = load_engine(NANO, spec, nano_cache).info
    assert info.working_bytes > info.memory_bytes > 0


@given(st.sampled_from([1, 2, 4, 16]))
def test_batches_of_the_torch_engine_count(batch: int) -> None:
    assert busy_bytes(SMALL, batch, 2) < busy_bytes(SMALL, batch, 4) < busy_bytes(SMALL, 2 * batch, 4)
