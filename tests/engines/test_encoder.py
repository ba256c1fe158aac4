"""The encoder that onnxruntime runs: its numbers, its independence of neighbours, its files."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import onnx
import pytest

from tests.conftest import NANO, SAMPLES, all_samples
from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.base import Engine, EngineSpec, Sampling
from whisper_server.services.engines.checkpoint import Checkpoint, read_config
from whisper_server.services.engines.ct2 import encoder_graph, onnx_encoder
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.encoder_graph import GRAPHS, write_encoder
from whisper_server.services.engines.ct2.folder import ENCODER_FILE, MARKER
from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder, sums_are_exact
from whisper_server.services.engines.model_shape import STEP_FRAMES
from whisper_server.services.engines.registry import load_engine, prepare_engine
from whisper_server.services.onnx.session import open_session
from whisper_server.services.onnx.writer import ALIGNMENT
from whisper_server.services.speech.log_mel import log_mel

CLIPS = [sample for sample in all_samples() if sample.is_robust]
SEARCH = Sampling(beam_size=5, temperature=0.0)

Mels = np.ndarray[Any, np.dtype[np.float32]]
Change = Callable[[str, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def mels() -> Mels:
    """The spectrograms [n, 80, 3000] of all robust clips."""
    return np.stack([log_mel(samples_of(SAMPLES / sample.name), 80) for sample in CLIPS])


def samples_of(path: Path) -> np.ndarray:
    import av

    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(path)) as container:
        pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])[:480_000]


def encoder_of(folder: Path, kind: str, change: Change = lambda _, tensor: tensor) -> OnnxEncoder:
    """Write the nano model's encoder, its weights changed, and load it."""
    config, checkpoint = read_config(NANO), Checkpoint(NANO)
    folder.mkdir(exist_ok=True)
    write_encoder(
        folder / ENCODER_FILE,
        lambda name: change(name, checkpoint.tensor(f"encoder.{name}").astype(np.float32)),
        layers=config["encoder_layers"],
        heads=config["encoder_attention_heads"],
        graph=GRAPHS[kind],
    )
    return OnnxEncoder(folder, kind, 1)


def reference(mels: Mels, cache: Path, compute_type: str) -> np.ndarray:
    """Return what CTranslate2's own encoder makes of them."""
    folder = ensure_converted(NANO, cache, compute_type)
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type=compute_type, intra_threads=1)
    return np.array(model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mels))))


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def outlier_channels(name: str, tensor: np.ndarray) -> np.ndarray:
    """Make three channels 30 times larger, and what reads them smaller: the same function."""
    part, channels = name.split(".", 2)[-1], [5, 50, 100]
    tensor = tensor.copy()
    if part.startswith(("self_attn_layer_norm", "final_layer_norm", "self_attn.v_proj")):
        tensor[channels] *= 30
    if part in {f"self_attn.{one}_proj.weight" for one in ("q", "k", "v", "out")} | {"fc1.weight"}:
        tensor[:, channels] /= 30
    return tensor


def test_float32_is_ctranslate2s(mels: Mels, tmp_path: Path, nano_cache: Path) -> None:
    got = encoder_of(tmp_path, "float32").encode(mels[:2])
    assert got.shape == (2, 1500, 128)
    assert got.dtype == np.float32
    assert error(got, reference(mels[:2], nano_cache, "float32")) < 1e-4


@pytest.mark.parametrize("n_frames", [STEP_FRAMES, 5 * STEP_FRAMES, 9 * STEP_FRAMES])
def test_part_of_a_window(n_frames: int, mels: Mels, tmp_path: Path, nano_cache: Path) -> None:
    part = mels[:2, :, :n_frames]
    got = encoder_of(tmp_path, "float32").encode(part)
    assert got.shape == (2, n_frames // 2, 128)
    assert error(got, reference(part, nano_cache, "float32")) < 1e-4


def test_a_length_does_not_depend_on_those_before_it(mels: Mels, tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, "int8")
    first = encoder.encode(mels[:1, :, :STEP_FRAMES])
    encoder.encode(mels[:1])
    np.testing.assert_array_equal(encoder.encode(mels[:1, :, :STEP_FRAMES]), first)


def test_int8_is_nearer_to_float32_than_ctranslate2s(mels: Mels, tmp_path: Path, nano_cache: Path) -> None:
    exact = reference(mels[:3], nano_cache, "float32")
    ours = error(encoder_of(tmp_path, "int8").encode(mels[:3]), exact)
    theirs = error(reference(mels[:3], nano_cache, "int8"), exact)
    assert 1e-4 < ours <= theirs


def test_outlier_channels_cost_no_precision(mels: Mels, tmp_path: Path, nano_cache: Path) -> None:
    exact = reference(mels[:2], nano_cache, "float32")
    plain = error(encoder_of(tmp_path / "plain", "int8").encode(mels[:2]), exact)
    scaled = error(encoder_of(tmp_path / "scaled", "int8", outlier_channels).encode(mels[:2]), exact)
    assert scaled < 1.3 * plain


def test_a_loud_position_takes_no_bits_from_the_others(mels: Mels, tmp_path: Path) -> None:
    def loud(name: str, tensor: np.ndarray) -> np.ndarray:
        tensor = tensor.copy()
        if name == "embed_positions.weight":
            tensor[700, 5] += 100
        return tensor

    exact = encoder_of(tmp_path / "float32", "float32", loud).encode(mels[:1])
    plain = encoder_of(tmp_path / "plain", "float32").encode(mels[:1])
    assert error(exact, plain) > 0.01  # it does change the output
    usual = error(encoder_of(tmp_path / "usual", "int8").encode(mels[:1]), plain)
    assert error(encoder_of(tmp_path / "int8", "int8", loud).encode(mels[:1]), exact) < 1.3 * usual


@pytest.mark.parametrize("kind", GRAPHS)
def test_rows_do_not_see_each_other(mels: Mels, tmp_path: Path, kind: str) -> None:
    encoder = encoder_of(tmp_path, kind)
    crowd = np.stack([mels[0], 3 * mels[1], mels[2], np.zeros_like(mels[0])])
    together = encoder.encode(crowd)
    for row, mel in zip(together, crowd, strict=True):
        np.testing.assert_array_equal(encoder.encode(mel[None])[0], row)


def test_calls_at_once_do_not_see_each_other(mels: Mels, tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, "int8")
    alone = [encoder.encode(mel[None]) for mel in mels[:6]]
    with ThreadPoolExecutor(2) as pool:
        for got, wanted in zip(pool.map(lambda mel: encoder.encode(mel[None]), mels[:6]), alone, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_part_of_the_threads_gives_the_same_numbers(mels: Mels, tmp_path: Path) -> None:
    encoder_of(tmp_path, "int8")
    encoder = OnnxEncoder(tmp_path, "int8", threads=2, workers=2)
    for mel in mels[:3, None]:
        np.testing.assert_array_equal(encoder.encode(mel, is_alone=False), encoder.encode(mel))


def test_files_that_are_gone_by_the_time_of_the_second_caller(
    mels: Mels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder_of(tmp_path, "int8")
    encoder = OnnxEncoder(tmp_path, "int8", threads=2, workers=2)
    alone = encoder.encode(mels[:1])
    for file in tmp_path.iterdir():
        file.unlink()
    np.testing.assert_array_equal(encoder.encode(mels[:1], is_alone=False), alone)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_128_bands(tmp_path: Path, mels: Mels) -> None:
    def wider(name: str, tensor: np.ndarray) -> np.ndarray:
        return np.pad(tensor, ((0, 0), (0, 48), (0, 0))) if name == "conv1.weight" else tensor

    wide = np.pad(mels[:1], ((0, 0), (0, 48), (0, 0)), constant_values=1.0)
    narrow = encoder_of(tmp_path / "80", "float32").encode(mels[:1])
    np.testing.assert_allclose(encoder_of(tmp_path / "128", "float32", wider).encode(wide), narrow, atol=2e-4)


@pytest.mark.skipif(not sums_are_exact(), reason="this processor's sums of 8 bits are not exact")
def test_unsigned_weights_give_the_same(mels: Mels, tmp_path: Path) -> None:
    signed = encoder_of(tmp_path / "signed", "int8").encode(mels[:1])
    unsigned = encoder_of(tmp_path / "unsigned", "uint8").encode(mels[:1])
    np.testing.assert_allclose(unsigned, signed, atol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("is_exact", "compute_type", "kind"),
    [(True, "int8", "int8"), (False, "int8", "uint8"), (False, "float32", "float32")],
)
def test_a_processor_gets_the_weights_that_it_computes_with_right(
    is_exact: bool, compute_type: str, kind: str, nano_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_encoder, "sums_are_exact", lambda: is_exact)
    spec = EngineSpec(threads=1, compute_type=compute_type)
    assert f"-onnx-{kind}-" in prepare_engine(NANO, spec, nano_cache).name
    engine = load_engine(NANO, spec, nano_cache)
    try:
        assert engine.info.encoder == f"onnxruntime {kind}"
    finally:
        engine.close()


@pytest.mark.parametrize("pieces", [1, 12])
def test_in_pieces_it_computes_the_same(
    pieces: int, mels: Mels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = encoder_of(tmp_path / "usual", "float32").encode(mels[:1])
    monkeypatch.setattr(encoder_graph, "PIECES", pieces)
    other = encoder_of(tmp_path / "other", "float32").encode(mels[:1])
    np.testing.assert_allclose(other, usual, atol=1e-5)


@pytest.mark.parametrize("pieces", [1, encoder_graph.PIECES])
@pytest.mark.parametrize("kind", GRAPHS)
def test_the_format_is_onnxs(kind: str, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`full_check` infers the shape of every value, with and without a graph inside the graph (Scan)."""
    monkeypatch.setattr(encoder_graph, "PIECES", pieces)
    encoder_of(tmp_path, kind)
    onnx.checker.check_model(tmp_path / ENCODER_FILE, full_check=True)


@pytest.mark.parametrize("kind", GRAPHS)
def test_onnx_reads_the_weights_beside_the_graph(kind: str, tmp_path: Path) -> None:
    """The checker only looks whether the file is there."""
    encoder_of(tmp_path, kind)
    graph = onnx.load(tmp_path / ENCODER_FILE, load_external_data=False).graph
    beside = [tensor for tensor in graph.initializer if onnx.external_data_helper.uses_external_data(tensor)]
    places = [onnx.external_data_helper.ExternalDataInfo(tensor) for tensor in beside]
    end = 0
    for tensor, place in zip(beside, places, strict=True):
        assert place.location == f"{ENCODER_FILE}.data"
        assert end <= place.offset < end + ALIGNMENT
        assert place.offset % ALIGNMENT == 0
        end = place.offset + place.length
        array = onnx.numpy_helper.to_array(tensor, base_dir=str(tmp_path))
        assert array.nbytes == place.length
    assert end == (tmp_path / f"{ENCODER_FILE}.data").stat().st_size
    positions = Checkpoint(NANO).tensor("encoder.embed_positions.weight").astype(np.float32)
    arrays = [onnx.numpy_helper.to_array(tensor, base_dir=str(tmp_path)) for tensor in beside]
    assert any(np.array_equal(array, positions[None]) for array in arrays)


def test_the_format_of_the_trial_is_onnxs(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def check(model: str) -> Any:
        onnx.checker.check_model(model, full_check=True)
        checked.append(model)
        return open_session(model)

    monkeypatch.setattr(onnx_encoder, "open_session", check)
    onnx_encoder.sums_are_exact.__wrapped__()
    assert len(checked) == 1


# The whole engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The nano model with two workers."""
    return load_engine(NANO, EngineSpec(threads=2), tmp_path_factory.mktemp("cache"))


def texts(engine: Engine, mels: Mels, rows: range | list[int]) -> list[str]:
    encoded = engine.encode(mels[list(rows)])
    prompts = [prompt_of(engine, row) for row in rows]
    return [engine.tokenizer.text(one.tokens).strip() for one in engine.generate(encoded, prompts, SEARCH)]


def prompt_of(engine: Engine, row: int) -> list[int]:
    task = "translate" if CLIPS[row].kind == "translate" else "transcribe"
    start = engine.tokenizer.start_sequence(CLIPS[row].language, task)
    return list(engine.tokenizer.prompt(start, CLIPS[row].prompt, ""))


def test_engine_says_what_encodes(engine: Engine) -> None:
    assert engine.info.encoder == f"onnxruntime {'int8' if sums_are_exact() else 'uint8'}"
    assert engine.info.workers == 2


@pytest.mark.long
def test_every_robust_clip(engine: Engine, mels: Mels) -> None:
    rows = [row for row, clip in enumerate(CLIPS) if clip.kind == "plain"]
    got = [text for first in range(0, len(rows), 4) for text in texts(engine, mels, rows[first : first + 4])]
    assert got == [CLIPS[row].text for row in rows]


def test_same_text_alone_and_in_a_crowd_under_two_workers(engine: Engine, mels: Mels) -> None:
    alone = [texts(engine, mels, [row])[0] for row in range(8)]
    with ThreadPoolExecutor(2) as pool:
        crowds = list(pool.map(lambda first: texts(engine, mels, range(first, first + 4)), (0, 4)))
    assert [text for crowd in crowds for text in crowd] == alone


def test_selected_rows(engine: Engine, mels: Mels) -> None:
    encoded = engine.encode(mels[:4])
    everyone = engine.detect_language(encoded)
    for got, row in zip(engine.detect_language(encoded.select([2, 0])), (2, 0), strict=True):
        assert got == pytest.approx(everyone[row], rel=1e-4, abs=1e-6)
    assert encoded.select([0, 1, 2, 3]) is encoded


def test_float32(tmp_path: Path, mels: Mels) -> None:
    engine = load_engine(NANO, EngineSpec(compute_type="float32", threads=1), tmp_path)
    assert (engine.info.encoder, engine.info.workers) == ("onnxruntime float32", 1)
    assert texts(engine, mels, [0]) == [CLIPS[0].text]


def test_type_that_onnxruntime_does_not_run(tmp_path: Path, mels: Mels) -> None:
    if "int16" not in ctranslate2.get_supported_compute_types("cpu"):
        pytest.skip("no int16 on this processor")
    engine = load_engine(NANO, EngineSpec(compute_type="int16", threads=1), tmp_path)
    assert engine.info.encoder == "ctranslate2"
    assert texts(engine, mels, [0]) == [CLIPS[0].text]


# Files


def test_folder_of_ctranslate2(
    tmp_path: Path, nano_cache: Path, mels: Mels, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ensure_converted(NANO, nano_cache, "int8")
    with caplog.at_level(logging.INFO):
        engine = load_engine(folder, EngineSpec(threads=1), tmp_path)
    assert engine.info.encoder == "ctranslate2"
    assert [record.levelname for record in caplog.records if "CTranslate2" in record.message] == ["INFO"]
    assert texts(engine, mels, [0]) == [CLIPS[0].text]


def test_model_bin_holds_no_second_encoder(tmp_path: Path) -> None:
    plain = ensure_converted(NANO, tmp_path, "int8")
    lean = ensure_converted(NANO, tmp_path, "int8", "int8")
    assert plain != lean
    assert not (plain / ENCODER_FILE).exists()
    assert (lean / "model.bin").stat().st_size < (plain / "model.bin").stat().st_size
    assert json.loads((lean / MARKER).read_text())["files"].keys() >= {ENCODER_FILE, f"{ENCODER_FILE}.data"}


@pytest.mark.long
@pytest.mark.parametrize("name", [ENCODER_FILE, f"{ENCODER_FILE}.data"])
def test_lost_encoder_is_converted_again(tmp_path: Path, name: str) -> None:
    folder = ensure_converted(NANO, tmp_path, "int8", "int8")
    (folder / name).unlink()
    assert ensure_converted(NANO, tmp_path, "int8", "int8") == folder
    OnnxEncoder(folder, "int8", 1)


def test_lean_folder_is_refused_where_its_encoder_cannot_run(tmp_path: Path) -> None:
    folder = ensure_converted(NANO, tmp_path / "cache", "int8", "int8")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(ModelUnavailable, match="onnxruntime"):
        ensure_converted(copy, tmp_path / "cache", "float16")


def test_weights_that_lack_a_layer(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_layers": 3}))
    with pytest.raises(ModelUnavailable, match=r"encoder\.layers\.2"):
        ensure_converted(folder, tmp_path / "cache", "int8", "int8")
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_the_library_logs_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder_of(tmp_path, "int8")
    assert capfd.readouterr().err == ""
