"""A CTranslate2 Whisper behind the Engine protocol, with its own encoder or onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from whisper_server.core.errors import DeviceOutOfMemory, EngineFailure
from whisper_server.core.system.memory import check_room, is_want_of_memory
from whisper_server.core.types import SECONDS_PER_TIMESTAMP, WINDOW_S
from whisper_server.services.engines.base import (
    Alignment,
    Encoded,
    EngineInfo,
    Hypothesis,
    IsWanted,
    Sampling,
    everything,
)
from whisper_server.services.engines.batching import rows_by, rows_within
from whisper_server.services.engines.ct2.active_calls import ActiveCalls
from whisper_server.services.engines.ct2.chance import repetition_penalty, shaken
from whisper_server.services.engines.model_shape import TEXT_POSITIONS
from whisper_server.services.engines.tokenizer import Tokenizer

if TYPE_CHECKING:
    from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder

T = TypeVar("T")

# Positions of text that one call aligns: it holds the scores of the whole vocabulary for each of them, 0.5 MB
# in 8 bits. The longest text of a window fits.
ALIGNED_POSITIONS = 256
SOME_POSITIONS = 8  # of encoder output: what products are compiled does not depend on it
COMPILER_BYTES = 32 << 20  # more than compiling takes


class _EncodedBatch:
    """Encoder output [batch, positions, d_model] on the device."""

    def __init__(self, view: Any) -> None:
        self.view = view

    def __len__(self) -> int:
        return int(self.view.shape[0])

    def select(self, rows: Sequence[int]) -> _EncodedBatch:
        """Return these rows, in this order; costs a copy through the host."""
        if list(rows) == list(range(len(self))):
            return self
        return self._like(np.ascontiguousarray(self._on_host()[list(rows)]))

    def shaken(self, seeds: Sequence[int], temperature: float) -> _EncodedBatch:
        """Return it with each row's own noise; costs a copy through the host."""
        rows = zip(self._on_host(), seeds, strict=True)
        return self._like(np.stack([shaken(row, seed, temperature) for row, seed in rows]))

    def _on_host(self) -> NDArray[np.float32]:
        return np.asarray(self.view.to_device(ctranslate2.Device.cpu).to(ctranslate2.DataType.float32))

    def _like(self, array: NDArray[np.float32]) -> _EncodedBatch:
        """Return host values in this batch's number type, where this batch is."""
        view = ctranslate2.StorageView.from_array(array).to(self.view.dtype)
        return _EncodedBatch(view if self.view.device == "cpu" else view.to_device(ctranslate2.Device.cuda))


class _HostBatch:
    """float32 [batch, positions, d_model] in NumPy's memory, which CTranslate2 reads in place."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.array = array

    @property
    def view(self) -> Any:
        return ctranslate2.StorageView.from_array(self.array)

    def select(self, rows: Sequence[int]) -> _HostBatch:
        """Return these rows, in this order."""
        if list(rows) == list(range(len(self.array))):
            return self
        return _HostBatch(self.array[list(rows)])

    def shaken(self, seeds: Sequence[int], temperature: float) -> _HostBatch:
        """Return it with each row's own noise."""
        rows = zip(self.array, seeds, strict=True)
        return _HostBatch(np.stack([shaken(row, seed, temperature) for row, seed in rows]))


class CTranslate2Engine:
    """A `ctranslate2.models.Whisper` behind the Engine protocol."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        encoder: OnnxEncoder | None,
        *,
        max_batch: int,
        workers: int,
        memory_bytes: int,
        working_bytes: int,
        silence_s: float = WINDOW_S,
    ) -> None:
        """Take the parts; without `encoder` the model's own is used."""
        self._model = model
        self._encoder = encoder
        self._calls = ActiveCalls()
        self.tokenizer = tokenizer
        self.info = EngineInfo(
            engine="ctranslate2",
            device=model.device,
            compute_type=model.compute_type,
            n_mels=model.n_mels,
            is_multilingual=model.is_multilingual,
            max_batch=max_batch,
            workers=workers,
            memory_bytes=memory_bytes,
            working_bytes=working_bytes,
            encoder=encoder.name if encoder else "ctranslate2",
            silence_s=silence_s,
            notes=(
                f"onnxruntime encoder: on, {encoder.name.split()[-1]}"
                if encoder
                else "onnxruntime encoder: off, none for this device, number format or folder",
                f"short audio context: on, {silence_s:g} s after the sound"
                if silence_s < WINDOW_S
                else "short audio context: off, not measured for this model, not on a CPU, or not wanted",
            ),
        )

    def compile_products(self, d_model: int) -> None:
        """Have the library compile its products of 8-bit numbers, as it would at the first decoded token.

        Later there may be no memory for that, and oneDNN, which does it, then ends the process: its
        `gemm_info_t::jit_init` writes to the memory that it did not get. Takes the time of three tokens.

        Raises:
            DeviceOutOfMemory, MemoryError: there is none now.
            EngineFailure: the model does not work.
        """
        check_room(COMPILER_BYTES)
        nothing = _HostBatch(np.zeros((1, SOME_POSITIONS, d_model), dtype=np.float32))
        prompt = self.tokenizer.start_sequence("en", "transcribe")
        self._generate([prompt], nothing, Sampling(beam_size=1, temperature=0.0, max_tokens=1))

    def encode(self, mels: NDArray[np.float32]) -> Encoded:
        """Run the encoder over mels [batch, n_mels, frames]."""
        if self._encoder is not None:
            with self._calls.call() as is_alone:
                return _HostBatch(self._encoder.encode(mels, is_alone=is_alone))
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mels, dtype=np.float32))
        return _EncodedBatch(_translated(lambda: self._model.encode(view)))

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        """Return, per row, language code -> probability."""
        with self._calls.call():
            rows = _translated(lambda: self._model.detect_language(_view(encoded)))
        return [{token.strip("<|>"): probability for token, probability in row} for row in rows]

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        """Decode each row after its prompt; prompts of different length go in one call per length.

        Above temperature 0 it is a search as well: see `chance`.
        """
        del is_wanted  # calls into the library, which cannot be interrupted
        results: list[Hypothesis | None] = [None] * len(prompts)
        for rows in rows_by(len(prompt) for prompt in prompts):
            batch = _batch(encoded.select(rows))
            if sampling.temperature > 0:
                batch = batch.shaken([sampling.seeds[row] for row in rows], sampling.temperature)
            with self._calls.call():
                decoded = self._generate([prompts[row] for row in rows], batch, sampling)
            for row, hypothesis in zip(rows, decoded, strict=True):
                results[row] = hypothesis
        return [result for result in results if result is not None]

    def _generate(
        self, prompts: list[Sequence[int]], encoded: Encoded, sampling: Sampling
    ) -> list[Hypothesis]:
        rows = _translated(
            lambda: self._model.generate(
                _view(encoded),
                [list(prompt) for prompt in prompts],
                return_scores=True,
                beam_size=sampling.beam_size,
                repetition_penalty=repetition_penalty(sampling.temperature),
                return_no_speech_prob=True,
                max_length=_max_length(prompts, sampling.max_tokens),
            )
        )
        return [_best(row) for row in rows]

    def align(
        self,
        encoded: Encoded,
        start_sequences: Sequence[Sequence[int]],
        text_tokens: Sequence[Sequence[int]],
        n_frames: Sequence[int],
    ) -> list[Alignment]:
        """Align text tokens with the audio by dynamic time warping over the alignment heads."""
        results: list[Alignment | None] = [None] * len(text_tokens)
        for alike in rows_by(tuple(sequence) for sequence in start_sequences):
            start = list(start_sequences[alike[0]])
            # Beside the text there are a start sequence, <|notimestamps|> and the end.
            lengths = [len(start) + len(text) + 2 for text in text_tokens]
            for rows in rows_within(ALIGNED_POSITIONS, alike, lengths):
                batch = encoded.select(rows)
                tokens, frames = [list(text_tokens[row]) for row in rows], [n_frames[row] for row in rows]
                with self._calls.call():
                    aligned = _translated(
                        lambda b=batch, t=tokens, f=frames, s=start: self._model.align(  # type: ignore[misc]
                            _view(b), s, t, f
                        )
                    )
                for row, result in zip(rows, aligned, strict=True):
                    results[row] = _alignment(result, len(text_tokens[row]))
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Unload the weights."""
        self._encoder = None
        self._model.unload_model()


def _max_length(prompts: Sequence[Sequence[int]], max_tokens: int | None) -> int:
    """Return the limit that lets a row have so many tokens: half of it, at most what its prompt leaves."""
    if max_tokens is None:
        return TEXT_POSITIONS
    return min(TEXT_POSITIONS, max(2 * max_tokens, len(prompts[0]) + max_tokens))


def _batch(encoded: Encoded) -> _EncodedBatch | _HostBatch:
    assert isinstance(encoded, _EncodedBatch | _HostBatch), "encoder output of another engine"
    return encoded


def _view(encoded: Encoded) -> Any:
    return _batch(encoded).view


def _best(row: Any) -> Hypothesis:
    """Pick the most probable sequence; CTranslate2 scores are means over the tokens."""
    score, tokens = max(zip(row.scores, row.sequences_ids, strict=True), key=lambda pair: pair[0])
    return Hypothesis(
        tokens=tuple(tokens),
        avg_logprob=score * len(tokens) / (len(tokens) + 1),
        no_speech_prob=row.no_speech_prob,
    )


def _alignment(result: Any, n_tokens: int) -> Alignment:
    """Turn the warping path of (token, encoder position) pairs into the time each token starts.

    The path also has the end token: it tells where the last word ends.
    """
    starts: dict[int, float] = {}
    for token, position in result.alignments:
        starts.setdefault(token, position * SECONDS_PER_TIMESTAMP)
    last = max((position for _, position in result.alignments), default=0) * SECONDS_PER_TIMESTAMP
    return Alignment(
        start_s=tuple(starts.get(token, last) for token in range(n_tokens + 1)),
        probabilities=tuple(result.text_token_probs[:n_tokens]),
    )


def _translated(call: Callable[[], T]) -> T:
    """Run a call into the library and turn its errors into ours."""
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if is_want_of_memory(error):
            raise DeviceOutOfMemory("The device has no memory for this batch; try again later.") from error
        raise EngineFailure(f"The engine failed: {error}") from error
    except ValueError as error:
        raise EngineFailure(f"The engine refused its input: {error}") from error
