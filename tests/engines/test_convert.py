"""Conversion without torch: the nano model in every disguise, and folders that must be refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import ctranslate2
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import reference_mel
from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.folder import MARKER

NANO = Path(__file__).parents[2] / "models" / "nano-whisper"
SIDE_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json")

Tensors = dict[str, np.ndarray]


def read_weights() -> Tensors:
    return load_file(NANO / "model.safetensors")


def write_weights(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write safetensors, whose library takes the memory of an array as it lies."""
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the nano model without its weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in SIDE_FILES:
        shutil.copyfile(NANO / name, folder / name)
    return folder


@pytest.fixture
def whole(model: Path) -> Path:
    """A copy of the nano model."""
    shutil.copyfile(NANO / "model.safetensors", model / "model.safetensors")
    return model


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_converted(NANO, tmp_path_factory.mktemp("reference"), "float32")


def edit(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def load(folder: Path) -> ctranslate2.models.Whisper:
    return ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="default")


def leftovers(cache: Path) -> list[Path]:
    return list(cache.glob("converted/.tmp-*"))


def samples_of(path: Path) -> np.ndarray:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(path)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def features(clip: str) -> ctranslate2.StorageView:
    mel = reference_mel.log_mel(samples_of(NANO / "samples" / clip), 80)
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], dtype=np.float32))


def transcribe(folder: Path, clip: str) -> str:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = [tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", "en", "transcribe")]
    prompt.append(tokenizer.token_to_id("<|notimestamps|>"))
    (result,) = load(folder).generate(features(clip), [prompt], beam_size=1)
    return str(tokenizer.decode(result.sequences_ids[0])).strip()


@pytest.mark.parametrize("quantization", ["int8", "float32", "float16"])
def test_converted_nano_transcribes(cache: Path, quantization: str) -> None:
    folder = ensure_converted(NANO, cache, quantization)
    assert transcribe(folder, "en-plain-000.flac") == "house left tree"
    assert (folder / "preprocessor_config.json").read_bytes() == (
        NANO / "preprocessor_config.json"
    ).read_bytes()
    assert (folder / "generation_config.json").read_bytes() == (NANO / "generation_config.json").read_bytes()
    assert load(folder).is_multilingual
    assert leftovers(cache) == []


def test_second_call_converts_nothing(whole: Path, cache: Path) -> None:
    folder = ensure_converted(whole, cache, "int8")
    before = (folder / "model.bin").stat()
    assert ensure_converted(whole, cache, "int8") == folder
    assert (folder / "model.bin").stat() == before
    assert ensure_converted(whole, cache, "float16") != folder


def test_changed_weights_are_converted_again(whole: Path, cache: Path) -> None:
    first = ensure_converted(whole, cache, "int8")
    os.utime(whole / "model.safetensors", ns=(1, 1))
    second = ensure_converted(whole, cache, "int8")
    edit(whole, "generation_config.json", alignment_heads=[[1, 1]])
    third = ensure_converted(whole, cache, "int8")
    assert len({first, second, third}) == 3
    assert json.loads((third / "config.json").read_text())["alignment_heads"] == [[1, 1]]


def test_read_only_use_of_a_finished_conversion(
    whole: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ensure_converted(whole, cache, "int8")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert ensure_converted(whole, cache, "int8") == folder
    with pytest.raises(ModelUnavailable, match="WHISPER_CACHE_DIR"):
        ensure_converted(whole, cache, "float32")


@pytest.mark.parametrize("lost", ["model.bin", MARKER, "tokenizer.json"])
def test_half_a_folder_is_not_taken_for_whole(whole: Path, cache: Path, lost: str) -> None:
    folder = ensure_converted(whole, cache, "int8")
    (folder / lost).write_bytes(b"")
    assert ensure_converted(whole, cache, "int8") == folder
    load(folder)
    assert leftovers(cache) == []


def test_failure_leaves_nothing(whole: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ModelUnavailable, match=r"'model'.*No space left.*WHISPER_CACHE_DIR"):
        ensure_converted(whole, cache, "int8")
    assert list((cache / "converted").iterdir()) == []


def test_shards(model: Path, cache: Path, reference: Path) -> None:
    tensors = list(read_weights().items())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = dict(zip(names, (dict(tensors[:60]), dict(tensors[60:])), strict=True))
    for name, part in parts.items():
        write_weights(model / name, part)
    where = {tensor: name for name, part in parts.items() for tensor in part}
    edit(model, "model.safetensors.index.json", weight_map=where)
    folder = ensure_converted(model, cache, "float32")
    assert (folder / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()
    (model / names[1]).unlink()
    with pytest.raises(ModelUnavailable, match=names[1]):
        ensure_converted(model, cache, "float32")


@pytest.mark.parametrize("outside", ["../model.safetensors", "/etc/passwd", ""])
def test_index_cannot_name_files_outside(model: Path, cache: Path, outside: str) -> None:
    edit(model, "model.safetensors.index.json", weight_map={"x": outside})
    with pytest.raises(ModelUnavailable, match="not there"):
        ensure_converted(model, cache, "int8")


@pytest.mark.parametrize(
    "rename",
    [
        pytest.param(lambda name: name.removeprefix("model."), id="bare"),
        pytest.param(lambda name: f"model.{name.removeprefix('model.')}", id="prefixed"),
    ],
)
def test_names_with_and_without_prefix(
    model: Path, cache: Path, reference: Path, rename: Callable[[str], str]
) -> None:
    write_weights(model / "model.safetensors", {rename(name): one for name, one in read_weights().items()})
    folder = ensure_converted(model, cache, "float32")
    assert (folder / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()


def test_stored_projection_that_equals_the_embeddings(model: Path, cache: Path, reference: Path) -> None:
    tensors = read_weights()
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"]
    write_weights(model / "model.safetensors", tensors)
    folder = ensure_converted(model, cache, "float32")
    assert (folder / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()


def test_float32_weights(model: Path, cache: Path, reference: Path) -> None:
    write_weights(
        model / "model.safetensors", {name: one.astype(np.float32) for name, one in read_weights().items()}
    )
    edit(model, "config.json", torch_dtype="float32")
    folder = ensure_converted(model, cache, "float32")
    assert (folder / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()


def test_bfloat16_weights_are_widened_without_loss(model: Path, cache: Path, tmp_path: Path) -> None:
    halves = {name: one.astype(ml_dtypes.bfloat16) for name, one in read_weights().items()}
    write_weights(model / "model.safetensors", halves)
    edit(model, "config.json", torch_dtype="bfloat16")
    folder = ensure_converted(model, cache, "float32")
    assert transcribe(folder, "en-plain-000.flac") == "house left tree"
    same = tmp_path / "same"
    shutil.copytree(model, same)
    expected = {name: one.astype(np.float32) for name, one in halves.items()}
    write_weights(same / "model.safetensors", expected)
    other = ensure_converted(same, cache, "float32")
    assert (folder / "model.bin").read_bytes() == (other / "model.bin").read_bytes()


def test_128_mel_bins(model: Path, cache: Path) -> None:
    tensors = read_weights()
    name = "model.encoder.conv1.weight"
    tensors[name] = np.concatenate([tensors[name], tensors[name][:, :48]], axis=1)
    write_weights(model / "model.safetensors", tensors)
    edit(model, "config.json", num_mel_bins=128)
    assert load(ensure_converted(model, cache, "int8")).n_mels == 128


def align(folder: Path, clip: str) -> Any:
    """Return the alignment of two tokens with the clip: what missing heads would break."""
    view = features(clip)
    prompt = [50258, 50259, 50359, 50363]
    (result,) = load(folder).align(view, prompt, [[1782, 1364]], [250])
    return result


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ([[0, 1], [1, 0], [3, 1]], [[0, 1], [1, 0]]),
        ([[2, 0], [3, 1]], [[1, 0], [1, 1]]),  # of the teacher's layers only: the upper half
        ([[1, 7]], [[1, 0], [1, 1]]),
        (None, [[1, 0], [1, 1]]),
    ],
)
def test_distilled(model: Path, cache: Path, named: object, kept: list[list[int]]) -> None:
    """Distilled Whispers have fewer layers in the decoder than in the encoder, and heads of the teacher's."""
    tensors = read_weights()
    dropped = re.compile(r"model\.decoder\.layers\.[2-9]\.")
    left = {name: one for name, one in tensors.items() if not dropped.match(name)}
    deeper = {
        name.replace("encoder.layers.1.", f"encoder.layers.{layer}."): one
        for layer in (2, 3)
        for name, one in tensors.items()
        if name.startswith("model.encoder.layers.1.")
    }
    write_weights(model / "model.safetensors", {**left, **deeper})
    edit(model, "config.json", decoder_layers=2, encoder_layers=4)
    edit(model, "generation_config.json", alignment_heads=named)
    folder = ensure_converted(model, cache, "int8")
    assert json.loads((folder / "config.json").read_text())["alignment_heads"] == kept
    assert align(folder, "en-plain-000.flac").alignments


def test_distilled_equals_its_teacher_where_nothing_was_lost(model: Path, cache: Path) -> None:
    """Layers that add nothing may be left out: the shorter decoder says the same."""
    tensors = read_weights()
    for name, tensor in tensors.items():
        if re.match(r"model\.decoder\.layers\.3\.(self_attn\.out_proj|encoder_attn\.out_proj|fc2)\.", name):
            tensors[name] = np.zeros_like(tensor)
    write_weights(model / "model.safetensors", tensors)
    teacher = transcribe(ensure_converted(model, cache, "float32"), "en-plain-000.flac")
    left = {name: one for name, one in tensors.items() if "decoder.layers.3." not in name}
    write_weights(model / "model.safetensors", left)
    edit(model, "config.json", decoder_layers=3)
    assert transcribe(ensure_converted(model, cache, "float32"), "en-plain-000.flac") == teacher


def test_fine_tuned(model: Path, cache: Path) -> None:
    """Trainers save float32, the projection beside the embeddings, no generation config, optimizer files."""
    tensors = {name: one.astype(np.float32) for name, one in read_weights().items()}
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"]
    write_weights(model / "model.safetensors", tensors)
    (model / "generation_config.json").unlink()
    (model / "training_args.bin").write_bytes(b"\x80\x02pickle")
    (model / "optimizer.pt").write_bytes(b"\x80\x02pickle")
    edit(model, "config.json", torch_dtype="float32", _name_or_path="openai/whisper-tiny")
    assert transcribe(ensure_converted(model, cache, "int8"), "en-plain-000.flac") == "house left tree"


def test_english_only(model: Path, cache: Path) -> None:
    """The English models have one ordinary token less, so every special token moves down by one."""
    tensors = read_weights()
    name = "model.decoder.embed_tokens.weight"
    tensors[name] = np.delete(tensors[name], 50256, axis=0)
    write_weights(model / "model.safetensors", tensors)
    edit(model, "config.json", vocab_size=51864)
    generation = json.loads((model / "generation_config.json").read_text())
    for key in ("lang_to_id", "task_to_id"):
        del generation[key]
    (model / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: number for token, number in vocab.items() if number < 50256}
    for token in tokenizer["added_tokens"]:
        token["id"] -= 1
    tokenizer["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    folder = ensure_converted(model, cache, "int8")
    assert not load(folder).is_multilingual
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert len(vocabulary) == 51864
    assert vocabulary[50257] == "<|startoftranscript|>"
    assert vocabulary[-1] == "<|30.00|>"


def test_tokenizer_without_timestamps_gets_them(whole: Path, cache: Path, reference: Path) -> None:
    path = whole / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 50364]
    path.write_text(json.dumps(content), encoding="utf-8")
    folder = ensure_converted(whole, cache, "float32")
    tokens = json.loads((folder / "vocabulary.json").read_text())
    assert tokens == json.loads((reference / "vocabulary.json").read_text())
    assert tokens[50364] == "<|0.00|>"
    assert tokens[-1] == "<|30.00|>"


def test_without_generation_config(whole: Path, cache: Path) -> None:
    (whole / "generation_config.json").unlink()
    folder = ensure_converted(whole, cache, "int8")
    config = json.loads((folder / "config.json").read_text())
    assert config["alignment_heads"] == [[2, 0], [2, 1], [3, 0], [3, 1]]
    assert config["lang_ids"] == list(range(50259, 50358))
    assert config["suppress_ids_begin"] == [220, 50257]
    assert config["suppress_ids"] is None
    assert not (folder / "generation_config.json").exists()
    assert transcribe(folder, "en-plain-000.flac") == "house left tree"


def test_alignment_heads_default_to_the_upper_half(whole: Path, cache: Path) -> None:
    edit(whole, "generation_config.json", alignment_heads=None)
    config = json.loads((ensure_converted(whole, cache, "int8") / "config.json").read_text())
    assert config["alignment_heads"] == [[2, 0], [2, 1], [3, 0], [3, 1]]


def split_tokenizer(folder: Path) -> None:
    """Replace tokenizer.json by the files that it was once made of."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in whole["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def test_tokenizer_from_its_parts(whole: Path, cache: Path, reference: Path) -> None:
    from tokenizers import Tokenizer

    split_tokenizer(whole)
    folder = ensure_converted(whole, cache, "float32")
    assert (folder / "vocabulary.json").read_bytes() == (reference / "vocabulary.json").read_bytes()
    assert transcribe(folder, "en-plain-000.flac") == "house left tree"
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    for text in (" Hello, wörld!  42 naïve\n日本語 🙂", " don't  stop", ""):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False).ids == ids
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode([50258, 50259, 2231]) == theirs.decode([50258, 50259, 2231])


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt", "added_tokens.json"])
def test_tokenizer_with_a_part_missing(whole: Path, cache: Path, missing: str) -> None:
    split_tokenizer(whole)
    (whole / missing).unlink()
    with pytest.raises(ModelUnavailable, match=missing.replace(".", r"\.")):
        ensure_converted(whole, cache, "int8")


def test_ctranslate2_folder_is_used_as_it_is(reference: Path, cache: Path) -> None:
    assert ensure_converted(reference, cache, "int8") == reference
    assert not cache.exists()


def fake_ctranslate2(folder: Path, spec: bytes) -> None:
    (folder / "model.bin").write_bytes(struct.pack("<IH", 6, len(spec) + 1) + spec + b"\0" + b"x" * 99)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda m: (m / "model.safetensors").unlink(), "no weights.*safetensors"),
        (lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"), "pytorch_model.bin.*pickled"),
        (lambda m: (m / "config.json").unlink(), "no config.json"),
        (lambda m: (m / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda m: (m / "config.json").write_text("[" * 100_000), "config.json"),
        (lambda m: (m / "config.json").write_text("[]"), "config.json"),
        (lambda m: edit(m, "config.json", model_type="wav2vec2"), "model_type is 'wav2vec2'"),
        (lambda m: edit(m, "config.json", auto_map={"AutoModel": "x.Y"}), "code from the model folder"),
        (lambda m: edit(m, "preprocessor_config.json", auto_map={}), "code from the model folder"),
        (lambda m: edit(m, "config.json", encoder_layers=3), "layers.2"),
        (lambda m: edit(m, "config.json", encoder_layers="2"), "config.json"),
        (lambda m: edit(m, "config.json", vocab_size=51866), "vocab_size x d_model"),
        (lambda m: (m / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda m: fake_ctranslate2(m, b"TransformerSpec"), "TransformerSpec"),
        (lambda m: (m / "model.bin").write_bytes(b"\x80\x02pickle"), "no CTranslate2"),
        (lambda m: (m / "model.bin").write_bytes(b""), "no CTranslate2"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_folders_that_are_refused(
    whole: Path, cache: Path, prepare: Callable[[Path], object], words: str
) -> None:
    prepare(whole)
    with pytest.raises(ModelUnavailable, match=f"'model'.*{words}") as caught:
        ensure_converted(whole, cache, "int8")
    assert "\n" not in caught.value.message
    assert list(cache.glob("converted/*")) == []


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda data: b"",
        lambda data: data[:4],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: struct.pack("<Q", 1 << 40) + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data.replace(b'"F16"', b'"I16"', 1),
        lambda data: data.replace(b'"data_offsets":[', b'"data_offsets":[9', 1),
        lambda data: data.replace(b'"shape":[', b'"shape":[7', 1),
        lambda data: struct.pack("<Q", 3) + b"[1]",
        lambda data: struct.pack("<Q", 8) + b'{"a": 1}',
        lambda data: data.replace(b"encoder.conv1.weight", b"encoder.conv9.weight", 1),
    ],
)
def test_damaged_weights(whole: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    path = whole / "model.safetensors"
    before = path.read_bytes()
    after = damage(before)
    assert after != before
    path.write_bytes(after)
    with pytest.raises(ModelUnavailable, match="'model'"):
        ensure_converted(whole, cache, "int8")
    assert list(cache.glob("converted/*")) == []


def test_file_names_beyond_ascii(whole: Path, tmp_path: Path) -> None:
    moved = whole.rename(tmp_path / "modèle 声 x")
    load(ensure_converted(moved, tmp_path / "cäche 声", "int8"))


def _convert_in_process(start: Any, folder: Path, cache: Path, results: Any) -> None:
    start.wait()
    results.put(str(ensure_converted(folder, cache, "int8")))


def test_two_processes_at_once(whole: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_convert_in_process, args=(start, whole, cache, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    folders = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert len(folders) == 1
    load(Path(folders.pop()))
    assert [path.name for path in (cache / "converted").iterdir() if path.name.startswith(".")] == []


def test_import_is_cheap() -> None:
    code = (
        "import sys, whisper_server.services.engines.ct2.convert;"
        "import whisper_server.services.model_files.hub.fetch;"
        "heavy = {'ctranslate2', 'numpy', 'ml_dtypes', 'safetensors', 'tokenizers', 'huggingface_hub'};"
        "heavy = (heavy | {'torch'}) & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
