"""Which engine auto means, how the torch engine runs on a device, and one model replicated over devices."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from whisper_server.core.config import Settings
from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.base import EngineSpec, Sampling
from whisper_server.services.engines.fake import FakeEngine
from whisper_server.services.engines.model_shape import ModelShape
from whisper_server.services.engines.registry import choice_of, load_engine
from whisper_server.services.engines.replicas import ReplicatedEngine
from whisper_server.services.engines.torch.plan import DeviceFacts, buckets, max_batch, plan

ALL = {"ctranslate2", "torch", "transformers"}
CUDA = DeviceFacts(
    "cuda:0", 80 << 30, True, (9, 0), frozenset({"flash_attn", "bitsandbytes", "accelerate", "triton"})
)
OLD_CUDA = DeviceFacts("cuda:0", 8 << 30, False, (7, 5))
METAL = DeviceFacts("mps", 16 << 30)
CPU = DeviceFacts("cpu")
LARGE = ModelShape(1280, 32, 51866)
TINY = ModelShape(384, 4, 51865)


@pytest.mark.parametrize(
    ("engine", "device", "installed", "is_apple", "chosen"),
    [
        ("auto", "auto", ALL, False, "ctranslate2"),
        ("auto", "cuda", ALL, False, "ctranslate2"),
        ("auto", "auto", ALL, True, "torch"),
        ("auto", "auto", {"ctranslate2"}, True, "ctranslate2"),
        ("auto", "auto", {"ctranslate2", "torch"}, True, "ctranslate2"),
        ("auto", "cpu", ALL, True, "ctranslate2"),
        ("auto", "mps", {"ctranslate2"}, True, "torch"),  # which then says what is not installed
        ("auto", "cuda:0,cuda:1", ALL, False, "torch"),
        ("auto", "auto", {"torch", "transformers"}, False, "torch"),
        ("ctranslate2", "auto", ALL, True, "ctranslate2"),
        ("torch", "cpu", set(), False, "torch"),
    ],
)
def test_auto(engine: str, device: str, installed: set[str], is_apple: bool, chosen: str) -> None:
    choice = choice_of(engine, device, is_installed=installed.__contains__, is_apple_silicon=is_apple)
    assert choice.engine == chosen
    assert choice.reason


@pytest.mark.parametrize(
    ("facts", "compute_type", "expected", "attention"),
    [
        (CUDA, "auto", "float16", "flash_attention_2"),
        (CUDA, "bfloat16", "bfloat16", "flash_attention_2"),
        (CUDA, "float32", "float32", "sdpa"),
        (CUDA, "int8", "int8_float16", "flash_attention_2"),
        (CUDA, "int8_bfloat16", "int8_bfloat16", "flash_attention_2"),
        (OLD_CUDA, "auto", "float16", "sdpa"),
        (METAL, "auto", "float16", "sdpa"),
        (METAL, "float32", "float32", "sdpa"),
        (CPU, "auto", "float32", "sdpa"),
    ],
)
def test_what_a_device_can_is_used(
    facts: DeviceFacts, compute_type: str, expected: str, attention: str
) -> None:
    decided = plan(facts, compute_type)
    assert (decided.compute_type, decided.attention, decided.warnings) == (expected, attention, ())


@pytest.mark.parametrize(
    ("facts", "compute_type", "wants_compile", "expected", "warning"),
    [
        (OLD_CUDA, "bfloat16", False, "float16", "bfloat16: not on cuda:0"),
        (OLD_CUDA, "int8", False, "float16", "not installed: bitsandbytes, accelerate"),
        (CUDA, "int8_float32", False, "int8_float16", "int8_float32: not on cuda"),
        (METAL, "int8", False, "float16", "Metal has no kernels"),
        (METAL, "bfloat16", False, "float16", "bfloat16: not on mps"),
        (METAL, "auto", True, "float16", "torch.compile: off"),
        (CPU, "float16", False, "float32", "float16: not on cpu"),
        (CPU, "int16", False, "float32", "int16: not on cpu"),
        (CPU, "int8", False, "float32", "the engine ctranslate2 has them"),
        (CPU, "int8_float32", False, "float32", "the engine ctranslate2 has them"),
        (OLD_CUDA, "auto", True, "float16", "not installed: triton"),
    ],
)
def test_what_is_missing_falls_back_with_a_warning(
    facts: DeviceFacts, compute_type: str, wants_compile: bool, expected: str, warning: str
) -> None:
    decided = plan(facts, compute_type, wants_compile=wants_compile)
    assert decided.compute_type == expected
    (said,) = decided.warnings
    assert warning in said
    assert not decided.compiles


def test_every_optimisation_has_a_note() -> None:
    for facts in (CUDA, OLD_CUDA, METAL, CPU):
        names = [note.partition(":")[0] for note in plan(facts).notes]
        assert names == ["int8 weights", "flash attention 2", "torch.compile"]
    assert plan(CUDA, wants_compile=True).compiles


def test_the_batch_is_what_memory_holds() -> None:
    assert max_batch(CUDA, TINY, bytes_per_value=2) == 64
    roomy, tight = (
        max_batch(replace(CUDA, free_bytes=gib << 30), LARGE, bytes_per_value=2) for gib in (60, 12)
    )
    assert roomy > tight >= 1
    assert max_batch(replace(CUDA, free_bytes=1 << 20), LARGE, bytes_per_value=2) == 1
    assert max_batch(METAL, TINY, bytes_per_value=2) == 8
    assert max_batch(CPU, LARGE, bytes_per_value=4) == 4
    assert [buckets(n) for n in (1, 4, 8, 64)] == [(1,), (1, 4), (1, 4, 8), (1, 4, 16, 64)]


@pytest.mark.parametrize(
    "device", ["auto", "cpu", "mps", "cuda", "cuda:1", "cuda:0,cuda:1", "CUDA:0, cuda:3"]
)
def test_devices_that_can_be_named(device: str) -> None:
    assert Settings(_env_file=None, device=device).device == device.lower()


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu,cuda:0", "cuda,cuda", "mps:0"])
def test_devices_that_cannot(device: str) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, device=device)


def test_deciding_imports_no_inference_library() -> None:
    code = (
        "import sys; from whisper_server.services.loaded_models import loader;"
        "from whisper_server.services.engines import registry;"
        "from whisper_server.services.engines.torch import plan;"
        "registry.choose_engine('auto', 'auto');"
        "print(sorted({'torch', 'transformers', 'ctranslate2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_engine_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("whisper_server.services.engines.registry.find_spec", lambda _name: None)
    with pytest.raises(ModelUnavailable, match="not installed: torch, transformers"):
        load_engine(tmp_path, EngineSpec("torch"), tmp_path)


class CountingEngine(FakeEngine):
    """Counts what it is asked to encode and decode."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.closed = False

    def encode(self, mels):
        self.asked.append("encode")
        return super().encode(mels)

    def generate(self, encoded, prompts, sampling, is_wanted=lambda _row: True):
        self.asked.append("generate")
        return super().generate(encoded, prompts, sampling, is_wanted)

    def close(self) -> None:
        self.closed = True


def test_every_worker_has_a_device_of_its_own() -> None:
    members = [CountingEngine(), CountingEngine()]
    replicas = ReplicatedEngine(members)
    assert (replicas.info.device, replicas.info.workers, replicas.info.max_batch) == ("cpu,cpu", 2, 4)
    both_are_in = threading.Barrier(2)

    def work() -> None:
        for _ in range(3):
            encoded = replicas.encode(np.zeros((2, 80, 3000), np.float32))
            both_are_in.wait(30)
            assert len(replicas.detect_language(encoded.select([1]))) == 1
            assert len(replicas.generate(encoded, [[1], [1]], Sampling(1, 0.0))) == 2
            assert len(replicas.align(encoded, [[1]], [[1, 2]], [100])) == 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [member.asked for member in members] == [["encode", "generate"] * 3] * 2
    replicas.close()
    assert all(member.closed for member in members)
