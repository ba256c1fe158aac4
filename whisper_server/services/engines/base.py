"""What an inference library must be able to do; everything else is ours and shared by all engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from whisper_server.core.types import WINDOW_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisper_server.services.engines.tokenizer import Tokenizer

IsWanted = Callable[[int], bool]  # whether the result of this row is still wanted


def everything(_row: int) -> bool:
    """Say that every row is wanted."""
    return True


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was loaded, as `/health` and the log show it."""

    engine: str  # "ctranslate2"
    device: str  # "cpu", "cuda"
    compute_type: str  # "int8", "float16": what the device really runs
    n_mels: int  # 80, or 128 from large-v3 on
    is_multilingual: bool
    max_batch: int  # windows that one call gains from
    workers: int  # calls at once that the device gains from
    memory_bytes: int  # weights in memory, near enough to budget with
    working_bytes: int = 0  # what calls take beside them at the busiest moment, near enough to budget with
    encoder: str = ""  # what runs the encoder: "ctranslate2", "onnxruntime int8"
    silence_s: float = WINDOW_S  # that the encoder is to hear after the sound; WINDOW_S: whole windows
    notes: tuple[str, ...] = ()  # optimisations: "name: on" or "name: off, the reason", one each


BEST_OF = 5  # as in openai/whisper


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of one attempt are chosen."""

    beam_size: int  # at temperature 0; 1 is greedy
    temperature: float  # 0: search; above: sample
    best_of: int = BEST_OF  # candidates where tokens are sampled
    seeds: tuple[int, ...] = ()  # one per row, unsigned 64 bits: all that chance may depend on above 0
    max_tokens: int | None = None  # of a row; None: as many as the model has room for


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One decoded token sequence."""

    tokens: tuple[int, ...]  # without prompt and end token
    avg_logprob: float  # sum of log-probabilities / (tokens + 1), as in openai/whisper
    no_speech_prob: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """When each text token was spoken: monotonic, in window time."""

    start_s: tuple[float, ...]  # one per text token, plus one: token i ends where i + 1 starts
    probabilities: tuple[float, ...]  # one per text token


class Encoded(Protocol):
    """A batch of encoder output, wherever the engine keeps it."""

    def select(self, rows: Sequence[int]) -> Encoded:
        """Return these rows, in this order."""
        ...


class Engine(Protocol):
    """One loaded model. Calls block, come from at most `info.workers` threads at a time, and never
    pad, trim or reorder by batch: row i of a result belongs to row i of the input, and a neighbour may
    delay it but never change it beyond float rounding.

    Every method raises `DeviceOutOfMemory` where the device has no memory for the batch (nothing was
    decoded, a smaller batch may do) and `EngineFailure` for what else the library reports.
    """

    @property
    def info(self) -> EngineInfo:
        """What was loaded."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own vocabulary."""
        ...

    def encode(self, mels: NDArray[np.float32]) -> Encoded:
        """Run the encoder over mels [batch, n_mels, frames].

        `frames` is WINDOW_FRAMES, or less where `info.silence_s` allows it: a multiple of STEP_FRAMES.
        """
        ...

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        """Return, per row, language code -> probability, over all languages the model knows."""
        ...

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        """Decode each row after its prompt (which ends with the start-of-transcript sequence).

        After a prompt that ends with <|notimestamps|> no timestamps are written. Where the engine can, it
        asks `is_wanted` between the tokens and gives up the rows that are not, with any result.
        """
        ...

    def align(
        self,
        encoded: Encoded,
        start_sequences: Sequence[Sequence[int]],
        text_tokens: Sequence[Sequence[int]],
        n_frames: Sequence[int],
    ) -> list[Alignment]:
        """Align text tokens with the audio by cross-attention; n_frames of mel hold real audio."""
        ...

    def close(self) -> None:
        """Give the memory back; the engine is not used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How an engine is to be loaded, as settings say it; "auto" leaves the choice to the engine."""

    engine: str = "ctranslate2"
    device: str = "auto"
    compute_type: str = "auto"
    threads: int = 0  # CPU threads of one device call; 0: all cores
    compiles: bool = False  # whether the engine may compile its loop, which makes loading slow
    beam_size: int = 5  # of the requests to come: what is compiled is compiled for it
    audio_context: Literal["auto", "full"] = "auto"  # full: the encoder always hears whole windows
