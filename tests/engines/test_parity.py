"""The same words through every engine: text, language and times, alone and batched.

The half that needs PyTorch is marked so; where it is missing, that half is skipped and says so.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import NANO, NANO_MODEL, Sample, all_samples
from tests.support.audio_files import samples_of
from whisper_server.core.config import Settings
from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.types import Decoded, DecodeOptions, Placed, TranscribeParams, Window, WindowJob
from whisper_server.services.container import open_services
from whisper_server.services.decoding.window_decoder import WindowDecoder
from whisper_server.services.engines.base import Engine, EngineSpec, Sampling
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.engines.replicas import ReplicatedEngine
from whisper_server.services.speech import log_mel

needs_torch = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of transformers, not ours
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
BOTH = ["ctranslate2", pytest.param("torch", marks=needs_torch)]
GREEDY = DecodeOptions(beam_size=1, temperatures=(0.0,))
BEAMS = DecodeOptions(beam_size=5, temperatures=(0.0,))
# No attempt is good enough, so that each falls back; chance has next to no say at 0.0001.
FALLBACK = DecodeOptions(beam_size=5, temperatures=(0.0, 0.0001), logprob_threshold=0.0)

LoadEngine = Callable[..., Engine]


def chosen(kind: str, count: int, *, robust: bool = False) -> list[Sample]:
    fitting = [one for one in all_samples() if one.kind == kind and (one.is_robust or not robust)]
    return fitting[:: max(1, len(fitting) // count)][:count]


PLAIN = chosen("plain", 6, robust=True)
CLIPS = [*PLAIN, *chosen("dense", 2), *chosen("numerals", 2), *chosen("translate", 2)]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> LoadEngine:
    """Load an engine on the CPU, once for each set of arguments."""
    cache = tmp_path_factory.mktemp("cache")
    loaded: dict[tuple[str, str], Engine] = {}

    def load(name: str, compute_type: str = "float32") -> Engine:
        if name == "torch":
            pytest.importorskip("torch")
            pytest.importorskip("transformers")
        key = (name, compute_type)
        if key not in loaded:
            loaded[key] = load_engine(NANO, EngineSpec(name, "cpu", compute_type, threads=1), cache)
        return loaded[key]

    return load


def job(sample: Sample) -> WindowJob:
    samples = samples_of(sample.data)
    duration_s = len(samples) / 16_000
    window = Window(log_mel.log_mel(samples, 80), duration_s, (Placed(0.0, 0.0, duration_s),))
    task = "translate" if sample.kind == "translate" else "transcribe"
    return WindowJob(window, None, prompt=sample.prompt, task=task, word_timestamps=True)


JOBS = [job(sample) for sample in CLIPS]


def decode(engine: Engine, jobs: Sequence[WindowJob], options: DecodeOptions, batch: int) -> list[Decoded]:
    decoder = WindowDecoder(engine)
    return [
        result
        for first in range(0, len(jobs), batch)
        for result in decoder.decode(jobs[first : first + batch], options)
    ]


def assert_same(left: Sequence[Decoded], right: Sequence[Decoded]) -> None:
    """Equal but for rounding: tokens and languages are equal, numbers nearly, times by all but a few."""
    assert [one.tokens for one in left] == [one.tokens for one in right]
    assert [one.language for one in left] == [one.language for one in right]
    times = [], []
    for one, other in zip(left, right, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-4)
        assert one.language_probability == pytest.approx(other.language_probability, abs=1e-3)
        for side, decoded in zip(times, (one, other), strict=True):
            side.extend(time.start_s for time in decoded.token_times)
        pairs = zip(one.token_times, other.token_times, strict=True)
        assert all(a.probability == pytest.approx(b.probability, abs=1e-3) for a, b in pairs)
    moved = np.abs(np.subtract(*times)) > 0.021
    assert moved.mean() <= 0.02, f"{moved.sum()} of {len(moved)} times moved"


@pytest.mark.parametrize("name", BOTH)
def test_the_words_are_those_of_the_clips(load: LoadEngine, name: str) -> None:
    engine = load(name)
    heard = decode(engine, JOBS[: len(PLAIN)], GREEDY, 4)
    assert [engine.tokenizer.text(one.tokens).strip() for one in heard] == [clip.text for clip in PLAIN]
    assert [one.language for one in heard] == [clip.language for clip in PLAIN]


@pytest.mark.long
@pytest.mark.parametrize("options", [BEAMS, FALLBACK], ids=["beams", "fallback"])
@pytest.mark.parametrize("name", BOTH)
def test_alone_and_in_a_crowd(load: LoadEngine, name: str, options: DecodeOptions) -> None:
    engine = load(name)
    jobs = JOBS[::2]
    assert_same(decode(engine, jobs, options, 1), decode(engine, jobs, options, len(jobs)))


@pytest.mark.parametrize("options", [GREEDY, BEAMS, FALLBACK], ids=["greedy", "beams", "fallback"])
@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_equal_to_ctranslate2(load: LoadEngine, name: str, options: DecodeOptions) -> None:
    jobs = JOBS[::2] if options is FALLBACK else JOBS
    assert_same(decode(load("ctranslate2"), jobs, options, 6), decode(load(name), jobs, options, 6))


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_silence_is_silence(load: LoadEngine, name: str) -> None:
    quiet = Window(log_mel.log_mel(np.zeros(48_000, np.float32), 80), 3.0, (Placed(0.0, 0.0, 3.0),))
    jobs = [WindowJob(quiet, "en"), JOBS[0]]
    ours, theirs = (decode(load(one), jobs, BEAMS, 2) for one in (name, "ctranslate2"))
    assert_same(ours, theirs)
    assert ours[0].no_speech_prob > 0.6


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_sampling_keeps_the_rules(load: LoadEngine, name: str) -> None:
    engine = load(name)
    options = replace(GREEDY, temperatures=(1.0,))
    for decoded in decode(engine, [replace(one, word_timestamps=False) for one in JOBS[:3]], options, 3):
        first = engine.tokenizer.first_timestamp
        assert first <= decoded.tokens[0] <= first + 50
        times = [token for token in decoded.tokens if token >= first]
        assert times == sorted(times)


@pytest.mark.parametrize("name", BOTH)
def test_chance_comes_with_the_seed_and_nothing_else(load: LoadEngine, name: str) -> None:
    """Alone, in a batch, in another place of it, after other work, on another thread: the same draws."""
    engine = load(name)
    encoded = engine.encode(np.stack([one.window.mel for one in JOBS[:3]]))
    start = engine.tokenizer.start_sequence("en", "transcribe")

    def tokens(rows: Sequence[int], *seeds: int) -> list[tuple[int, ...]]:
        found = engine.generate(
            encoded.select(rows), [start] * len(rows), Sampling(1, 1.0, seeds=tuple(seeds))
        )
        return [one.tokens for one in found]

    (alone,) = tokens([1], 2**64 - 1)
    assert tokens([0, 1, 2], 5, 2**64 - 1, 6)[1] == alone
    assert tokens([1, 1, 0], 2**64 - 1, 7, 8)[0] == alone
    with ThreadPoolExecutor(1) as another:
        assert another.submit(tokens, [1], 2**64 - 1).result() == [alone]
    assert len({tokens([1], seed)[0] for seed in range(12)}) > 1


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_cancelled_rows_are_given_up(load: LoadEngine, name: str, beam_size: int) -> None:
    engine = load(name)
    encoded = engine.encode(np.stack([one.window.mel for one in JOBS[:3]]))
    prompts = [engine.tokenizer.start_sequence("en", "transcribe")] * 3
    sampling = Sampling(beam_size, 0.0)
    whole = engine.generate(encoded, prompts, sampling)
    asked: list[int] = []
    part = engine.generate(
        encoded, prompts, sampling, lambda row: asked.append(row) or row != 1 or asked.count(1) < 3
    )
    assert part[0] == replace(whole[0], avg_logprob=part[0].avg_logprob)
    assert 1 <= len(part[1].tokens) <= 3 < len(whole[1].tokens)
    before = len(asked)
    nothing = engine.generate(encoded, prompts, sampling, lambda row: asked.append(row) or False)
    assert len(nothing) == 3
    assert len(asked) - before == 3


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_int8_on_the_cpu_is_float32_with_a_warning(
    load: LoadEngine, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(name, "int8")
    assert engine.info.compute_type == "float32"
    assert engine.info.memory_bytes == load(name).info.memory_bytes
    (note,) = [one for one in engine.info.notes if one.startswith("int8 weights")]
    assert "off" in note
    assert note in caplog.text
    assert_same(decode(engine, JOBS[:2], GREEDY, 2), decode(load(name), JOBS[:2], GREEDY, 2))


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_compiled_steps_are_compiled_before_any_request(load: LoadEngine, name: str) -> None:
    engine = load(name)
    import torch

    from whisper_server.services.engines.torch.decoder_step import CompiledSteps

    expected = decode(engine, JOBS[:3], BEAMS, 3)
    compiled: list[int] = []
    runs: list[int] = []

    def backend(module: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        compiled.append(1)
        return lambda *inputs: runs.append(1) or module.forward(*inputs)

    steps = CompiledSteps(engine.network, (1, 4), (5,), backend=backend)
    with torch.inference_mode():
        steps.warm_up()
    assert len(compiled) == 2
    assert [steps.fit(n, 5) for n in (1, 2, 4, 9)] == [1, 4, 4, 9]
    plain, engine.steps = engine.steps, steps
    try:
        results: list[list[Decoded]] = []
        thread = threading.Thread(target=lambda: results.append(decode(engine, JOBS[:3], BEAMS, 3)))
        thread.start()
        thread.join()
    finally:
        engine.steps = plain
    assert_same(results[0], expected)
    assert len(compiled) == 2
    assert len(runs) > 10  # and the request did run what was compiled


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
def test_two_devices_share_the_windows(load: LoadEngine, name: str) -> None:
    replicas = ReplicatedEngine([load(name), load(name)])
    results: dict[int, list[Decoded]] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: decode(replicas, JOBS[i : i + 2], GREEDY, 2)}))
        for i in (0, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same([*results[0], *results[2]], decode(load(name), JOBS[:4], GREEDY, 4))


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
async def test_a_server_with_the_engine(
    load: LoadEngine, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load(name)
    caplog.set_level("INFO", "whisper_server")
    settings = Settings(
        _env_file=None, engine=name, device="cpu", compute_type="float16", model=str(NANO), offline=True
    )
    async with open_services(settings) as services:
        data, params = PLAIN[0].data, TranscribeParams(NANO_MODEL, word_timestamps=True)
        transcript = await services.transcriber.transcribe(data, params)
        (state,) = services.models.loaded()
    assert transcript.text == PLAIN[0].text
    assert [word.text for segment in transcript.segments for word in segment.words] == PLAIN[0].text.split()
    assert state.engine is not None
    assert len(state.engine["optimizations"]) == 3
    assert "float16: not on cpu here, float32 is used" in caplog.text
    assert "engine=torch (as set) device=cpu compute_type=float32" in caplog.text


@pytest.mark.parametrize("name", [pytest.param("torch", marks=needs_torch)])
@pytest.mark.parametrize("broken", ["code", "pickle", "device"])
def test_what_is_refused(load: LoadEngine, name: str, broken: str, tmp_path: Path) -> None:
    load(name)
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples"))
    if broken == "code":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    if broken == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    device = "mps" if broken == "device" else "cpu"
    with pytest.raises(ModelUnavailable, match=r"auto_map|never run|never pickled|PyTorch has no mps"):
        load_engine(folder, EngineSpec(name, device), tmp_path)
