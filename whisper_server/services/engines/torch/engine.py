"""Engine `torch`: PyTorch with transformers' Whisper; NVIDIA GPUs, Apple's GPU, and CPUs.

An extra of the package, imported by `load_engine` when it is chosen, not before: the two libraries take
seconds and hundreds of megabytes. How it runs is decided in `plan`, the search is `search`, and the forward
passes are `network`; here they meet the Engine protocol.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_server.core.errors import DeviceOutOfMemory, EngineFailure
from whisper_server.core.system.memory import is_want_of_memory
from whisper_server.services.engines.base import (
    Alignment,
    Encoded,
    Engine,
    EngineInfo,
    EngineSpec,
    Hypothesis,
    IsWanted,
    Sampling,
    everything,
)
from whisper_server.services.engines.batching import rows_within
from whisper_server.services.engines.checkpoint import load_tokenizer, read_config, read_json
from whisper_server.services.engines.model_shape import FRAMES_PER_POSITION, ModelShape
from whisper_server.services.engines.replicas import ReplicatedEngine
from whisper_server.services.engines.tokenizer import Tokenizer
from whisper_server.services.engines.torch.align import alignment_heads, alignment_within
from whisper_server.services.engines.torch.decoder_step import choose_steps
from whisper_server.services.engines.torch.load import (
    bytes_of,
    devices,
    facts_of,
    free_cached,
    languages_of,
    load_modules,
)
from whisper_server.services.engines.torch.network import Network
from whisper_server.services.engines.torch.plan import (
    ALIGNED_POSITIONS,
    Plan,
    busy_bytes,
    max_batch,
    plan,
)
from whisper_server.services.engines.torch.search import MAX_NEW_TOKENS, Prompts, Search
from whisper_server.services.engines.torch.token_rules import TokenRules

log = logging.getLogger(__name__)

MULTILINGUAL_VOCABULARY = 51_865  # tokens; English-only models have fewer (openai/whisper's model.py)


def load(folder: Path, spec: EngineSpec, _cache_dir: Path) -> Engine:
    """Load the model in `folder` on the device, or on each of them.

    Raises:
        ModelUnavailable: the folder is no model in safetensors, or the device is not to be had.
    """
    wanted = [one for part in spec.device.split(",") for one in devices(part.strip())]
    engines: list[Engine] = []
    try:
        engines.extend(_load_on(device, folder, spec) for device in wanted)
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines[0] if len(engines) == 1 else ReplicatedEngine(engines)


def _load_on(device: str, folder: Path, spec: EngineSpec) -> TorchEngine:
    decided = plan(facts_of(device), spec.compute_type, wants_compile=spec.compiles)
    for warning in decided.warnings:
        log.warning("%s", warning)
    config, generation = read_config(folder), read_json(folder, "generation_config.json")
    network = Network(load_modules(folder, decided))
    raw = load_tokenizer(folder)
    is_multilingual = config["vocab_size"] >= MULTILINGUAL_VOCABULARY
    return TorchEngine(
        network,
        Tokenizer.from_raw(raw, is_multilingual=is_multilingual),
        decided,
        languages=languages_of(raw, generation),
        no_speech=raw.token_to_id("<|nospeech|>") or raw.token_to_id("<|nocaptions|>"),
        generation=generation or config,
        memory_bytes=bytes_of(network.model),
        spec=spec,
    )


class _EncodedBatch:
    """Encoder output [batch, 1500, d_model] on the device."""

    def __init__(self, states: Any) -> None:
        self.states = states

    def select(self, rows: Sequence[int]) -> _EncodedBatch:
        """Return these rows, in this order; costs a copy on the device."""
        if list(rows) == list(range(len(self.states))):
            return self
        with torch.inference_mode():
            return _EncodedBatch(self.states[torch.tensor(list(rows), device=self.states.device)])


class TorchEngine:
    """One Whisper model on one device behind the Engine protocol."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        decided: Plan,
        *,
        languages: dict[str, int],
        no_speech: int | None,
        generation: Mapping[str, Any],
        memory_bytes: int,
        spec: EngineSpec,
    ) -> None:
        """Take the loaded parts; `generation` names the suppressed tokens and the heads that align."""
        config, self.network = network.config, network
        self.tokenizer = tokenizer
        self._languages, self._no_speech = languages, no_speech
        self._threads = spec.threads or os.cpu_count() or 1
        self._rules = TokenRules(
            end=tokenizer.end,
            first_timestamp=tokenizer.first_timestamp,
            vocabulary=config.vocab_size,
            suppressed=generation.get("suppress_tokens") or (),
            suppressed_first=generation.get("begin_suppress_tokens") or (),
            device=network.device,
        )
        self._watched = alignment_heads(generation, config.decoder_layers, config.decoder_attention_heads)
        shape = ModelShape(config.d_model, config.decoder_layers, config.vocab_size)
        batch = max_batch(facts_of(decided.device), shape, bytes_per_value=network.dtype.itemsize)
        self.steps, notes = choose_steps(network, decided, batch, spec.beam_size)
        self.info = EngineInfo(
            engine="torch",
            device=decided.device,
            compute_type=decided.compute_type,
            n_mels=config.num_mel_bins,
            is_multilingual=tokenizer.is_multilingual,
            max_batch=batch,
            workers=1,
            memory_bytes=memory_bytes,
            working_bytes=busy_bytes(shape, batch, network.dtype.itemsize),
            notes=notes,
        )

    def encode(self, mels: NDArray[np.float32]) -> Encoded:
        """Run the encoder over mels [batch, n_mels, WINDOW_FRAMES].

        Whole windows only: transformers' encoder takes no others, and a GPU gains more from batches.
        """
        with self._device():
            return _EncodedBatch(self.network.encode(torch.from_numpy(np.ascontiguousarray(mels))))

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        """Return, per row, language code -> probability."""
        states = _states(encoded)
        with self._device():
            start = torch.full((len(states), 1), self.tokenizer.start, device=states.device)
            hidden, _ = self.network.read(start, self.network.open_cache(states, 1), keeps=False)
            ids = torch.tensor(list(self._languages.values()), device=states.device)
            rows = self.network.logits(hidden[:, 0])[:, ids].softmax(dim=-1).tolist()
        return [dict(zip(self._languages, row, strict=True)) for row in rows]

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        """Decode all rows in one call, whatever the lengths of their prompts."""
        given = Prompts(
            prompts,
            self.tokenizer.start,
            self.tokenizer.end,
            self._no_speech,
            timestamps=any(prompt[-1] != self.tokenizer.no_timestamps for prompt in prompts),
            most=sampling.max_tokens or MAX_NEW_TOKENS,
        )
        with self._device():
            search = Search(self.network, self._rules, given, sampling, self.steps)
            cache = self.network.open_cache(_states(encoded), 1)
            found = search.run(cache, is_wanted)
        results = []
        for one in found:
            score, tokens = one.best()
            results.append(Hypothesis(tuple(tokens), score / (len(tokens) + 1), one.no_speech_prob))
        return results

    def align(
        self,
        encoded: Encoded,
        start_sequences: Sequence[Sequence[int]],
        text_tokens: Sequence[Sequence[int]],
        n_frames: Sequence[int],
    ) -> list[Alignment]:
        """Align text tokens with the audio by dynamic time warping over the alignment heads."""
        sequences = [
            [*start, self.tokenizer.no_timestamps, *text, self.tokenizer.end]
            for start, text in zip(start_sequences, text_tokens, strict=True)
        ]
        lengths = [len(one) for one in sequences]
        firsts = [len(one) for one in start_sequences]  # of <|notimestamps|>, which the text follows
        results: dict[int, Alignment] = {}
        for rows in rows_within(ALIGNED_POSITIONS * self.info.max_batch, range(len(sequences)), lengths):
            states = _states(encoded.select(rows))
            with self._device():
                part = [sequences[row] for row in rows]
                scores, probabilities = self.network.follow(states, part, self._watched, self.tokenizer.end)
            for index, row in enumerate(rows):
                seen = slice(lengths[row])  # and not what fills up shorter sequences
                n_positions = n_frames[row] // FRAMES_PER_POSITION
                results[row] = alignment_within(
                    scores[index, :, seen], probabilities[index, seen], n_positions, firsts[row]
                )
        return [results[row] for row in range(len(sequences))]

    def close(self) -> None:
        """Drop the weights."""
        device = self.info.device
        del self.network, self.steps, self._rules
        free_cached(device)

    @contextmanager
    def _device(self) -> Iterator[None]:
        """Run PyTorch without gradients, on our number of threads, and turn its errors into ours."""
        if self.info.device == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # of the calling thread
        try:
            with torch.inference_mode():
                yield
        except (RuntimeError, MemoryError) as error:
            if is_want_of_memory(error):
                free_cached(self.info.device)
                message = "The device has no memory for this batch; try again later."
                raise DeviceOutOfMemory(message) from error
            raise EngineFailure(f"The engine failed: {error}") from error
        except (ValueError, IndexError) as error:
            raise EngineFailure(f"The engine refused its input: {error}") from error


def _states(encoded: Encoded) -> Any:
    assert isinstance(encoded, _EncodedBatch), "encoder output of another engine"
    return encoded.states
