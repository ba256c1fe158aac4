"""Checkpoints are known by their weights, and those that were measured hear less than whole windows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import NANO, NANO_MODEL, Sample
from tests.support.nano_clips import RATE, ROBUST, pcm
from tests.support.real_models import real_model
from whisper_server.core.config import Settings
from whisper_server.core.types import (
    WINDOW_FRAMES,
    WINDOW_S,
    Decoded,
    DecodeOptions,
    Placed,
    Window,
    WindowJob,
)
from whisper_server.services.decoding.short_context import ContextDecoder
from whisper_server.services.decoding.window_decoder import WindowDecoder
from whisper_server.services.engines.audio_context import SILENCE_S, fingerprint, silence_after
from whisper_server.services.engines.base import Engine, EngineSpec, IsWanted
from whisper_server.services.engines.checkpoint import SINGLE_FILE, Checkpoint
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.folder import MARKER, fingerprint_of
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.loaded_models.loader import ModelLoader
from whisper_server.services.speech.log_mel import log_mel

MEASURED_S = 8.0  # with which these clips are heard; the nano model itself is not in the table
CLIPS = [clip for clip in ROBUST if clip.kind == "plain"][:8]

Tensors = dict[str, np.ndarray]


def changed(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Write the nano model with other weights."""
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples"))
    tensors = load_file(folder / SINGLE_FILE)
    save_file(change(tensors), folder / SINGLE_FILE)
    return folder


def as_float32(tensors: Tensors) -> Tensors:
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def with_output(tensors: Tensors) -> Tensors:
    (embedding,) = (
        tensor for name, tensor in tensors.items() if name.endswith("decoder.embed_tokens.weight")
    )
    return {**tensors, "proj_out.weight": embedding.copy()}


def fine_tuned(tensors: Tensors) -> Tensors:
    """Change one projection as a low-rank adapter does that was merged."""
    (name,) = (name for name in tensors if name.endswith("decoder.layers.2.self_attn.q_proj.weight"))
    rng = np.random.default_rng(3)
    rows, columns = tensors[name].shape
    adapter = 0.01 * rng.standard_normal((rows, 2)) @ rng.standard_normal((2, columns))
    return {**tensors, name: (tensors[name] + adapter).astype(tensors[name].dtype)}


@pytest.mark.parametrize("change", [as_float32, with_output])
def test_the_same_weights_stored_in_another_way(change: Callable[[Tensors], Tensors], tmp_path: Path) -> None:
    other = fingerprint(Checkpoint(changed(tmp_path / "model", change)))
    assert other == fingerprint(Checkpoint(NANO))


def test_a_fine_tuned_model_is_another_one(tmp_path: Path) -> None:
    assert fingerprint(Checkpoint(changed(tmp_path / "model", fine_tuned))) != fingerprint(Checkpoint(NANO))


def test_what_was_not_measured_hears_whole_windows() -> None:
    assert silence_after(fingerprint(Checkpoint(NANO))) == WINDOW_S
    assert silence_after("") == WINDOW_S


@pytest.mark.real
@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_published_weights_are_known(name: str) -> None:
    assert silence_after(fingerprint(Checkpoint(real_model(name)))) < WINDOW_S


def test_a_conversion_remembers_the_weights(nano_cache: Path, tmp_path: Path) -> None:
    folder = ensure_converted(NANO, nano_cache, "int8", "int8")
    assert fingerprint_of(folder) == fingerprint(Checkpoint(NANO))
    elsewhere = tmp_path / "converted-elsewhere"
    shutil.copytree(folder, elsewhere)
    (elsewhere / MARKER).write_text(json.dumps({"files": {}}))
    assert not fingerprint_of(elsewhere)
    (elsewhere / MARKER).unlink()
    assert not fingerprint_of(elsewhere)


@pytest.mark.parametrize("context", ["auto", "full"])
def test_a_loaded_model_hears_what_the_setting_says(
    context: str, nano_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SILENCE_S, fingerprint(Checkpoint(NANO)), MEASURED_S)
    settings = Settings(_env_file=None, cache_dir=nano_cache, audio_context=context, threads=1)
    model = ModelLoader(settings)(NANO_MODEL)
    engine, heard = model.engine, list[int]()
    encode = engine.encode
    monkeypatch.setattr(engine, "encode", lambda mels: heard.append(mels.shape[2]) or encode(mels))
    with model.scheduler.open_stream() as stream:
        decoded = stream.submit(job(CLIPS[0]), DecodeOptions()).result()
    notes = [note for note in engine.info.notes if note.startswith("short audio context")]
    model.close()
    assert engine.tokenizer.text(decoded.tokens).strip() == CLIPS[0].text
    assert (heard == [WINDOW_FRAMES]) == (context == "full")
    assert [note.split(":")[1][:4] for note in notes] == [" off" if context == "full" else " on,"]


@pytest.fixture(scope="module", params=["onnxruntime", "ctranslate2"])
def engine(request: pytest.FixtureRequest, nano_cache: Path) -> Iterator[Engine]:
    """The nano model, its encoder run by either library."""
    folder = NANO if request.param == "onnxruntime" else ensure_converted(NANO, nano_cache, "int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SILENCE_S, fingerprint(Checkpoint(NANO)), MEASURED_S)
        loaded = load_engine(folder, EngineSpec("ctranslate2", "cpu", "int8", threads=1), nano_cache)
    assert request.param in loaded.info.encoder
    assert loaded.info.silence_s == MEASURED_S
    yield loaded
    loaded.close()


def job(clip: Sample) -> WindowJob:
    samples = pcm(clip.name)
    duration_s = len(samples) / RATE
    window = Window(log_mel(samples, 80), duration_s, (Placed(0.0, 0.0, duration_s),))
    return WindowJob(window, None, word_timestamps=True)


def test_texts_languages_and_word_times(engine: Engine) -> None:
    jobs = [job(clip) for clip in CLIPS]
    lengths: list[int] = []

    def decode(
        jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted, n_frames: int
    ) -> list[Decoded]:
        lengths.append(n_frames)
        return WindowDecoder(engine).decode(jobs, options, is_wanted, n_frames)

    short = ContextDecoder(decode, engine.info.silence_s).decode(jobs, DecodeOptions())
    whole = WindowDecoder(engine).decode(jobs, DecodeOptions())
    assert max(lengths) < WINDOW_FRAMES
    moved: list[float] = []
    for clip, one, other in zip(CLIPS, short, whole, strict=True):
        assert (engine.tokenizer.text(one.tokens).strip(), one.language) == (clip.text, clip.language)
        for time, wanted in zip(one.token_times, other.token_times, strict=True):
            moved += [abs(time.start_s - wanted.start_s), abs(time.end_s - wanted.end_s)]
    assert np.median(moved) <= 0.021, moved  # a position of the encoder
    assert np.mean(moved) < 0.1, moved


def test_neighbours_of_other_lengths_change_nothing(engine: Engine) -> None:
    jobs = [job(clip) for clip in CLIPS]
    decode = ContextDecoder(WindowDecoder(engine).decode, engine.info.silence_s).decode
    together = decode(jobs, DecodeOptions())
    assert [decode([one], DecodeOptions())[0].tokens for one in jobs] == [one.tokens for one in together]
