"""How the torch engine runs on a device: number format, kernels, compilation, batch size, and why.

Pure decisions over a description of the device: PyTorch is not imported here, so that every device can be
tested on any. What is missing falls back to what is there, with a note; nothing here raises.
"""

from __future__ import annotations

from dataclasses import dataclass

from whisper_server.services.engines.base import BEST_OF
from whisper_server.services.engines.model_shape import (
    AUDIO_POSITIONS,
    GAPS,
    KEPT_BYTES,
    TEXT_POSITIONS,
    ModelShape,
)

MAX_BATCH = {"cuda": 64, "mps": 8, "cpu": 4}  # windows; beyond, a batch only makes others wait longer
GROUP = BEST_OF  # rows that one window becomes: beams of the search, or candidates where tokens are sampled
FREE_SHARE = 0.8  # of the free memory: other models and the allocator's gaps need the rest
ALIGNED_POSITIONS = 64  # tokens, for each window of the batch, that are aligned at once: a full text is 229


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What there is to decide on."""

    device: str  # "cuda:0", "mps", "cpu"
    free_bytes: int | None = None  # memory for weights and batches, None where the device cannot say
    has_bfloat16: bool = False  # in hardware
    compute_capability: tuple[int, int] = (0, 0)  # of an NVIDIA GPU
    packages: frozenset[str] = frozenset()  # installed, of those that `plan` asks for

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to load and run."""

    device: str
    dtype: str  # of the activations: a name in the torch module
    is_int8: bool  # weights of the linear layers, by bitsandbytes
    attention: str  # transformers' name for it
    compiles: bool
    notes: tuple[str, ...]  # each optimisation: on, or off and why
    warnings: tuple[str, ...]  # those of the notes that the operator asked for and does not get

    @property
    def compute_type(self) -> str:
        """The name that the settings have for it."""
        return f"int8_{self.dtype}" if self.is_int8 else self.dtype


def plan(facts: DeviceFacts, compute_type: str = "auto", *, wants_compile: bool = False) -> Plan:
    """Decide; `compute_type` is one of the settings', "auto" for what the device does best."""
    notes: list[str] = []
    warnings: list[str] = []
    dtype, refused = _dtype(facts, compute_type)
    is_int8, int8_note = _int8(facts, compute_type)
    attention, attention_note = _attention(facts, dtype)
    compiles, compile_note = _compile(facts, wants_compile)
    notes += [int8_note, attention_note, compile_note]
    if refused:
        warnings.append(refused)
    if compute_type.startswith("int8") and not is_int8:
        warnings.append(int8_note)
    if wants_compile and not compiles:
        warnings.append(compile_note)
    return Plan(facts.device, dtype, is_int8, attention, compiles, tuple(notes), tuple(warnings))


def _dtype(facts: DeviceFacts, compute_type: str) -> tuple[str, str]:
    """Return the format of the activations, and why it is not the wanted one ("" where it is)."""
    best = {"cuda": "float16", "mps": "float16"}.get(facts.kind, "float32")
    wanted = compute_type.removeprefix("int8_")
    if wanted in {"auto", "int8"}:
        return best, ""
    if wanted == "float32":
        if facts.kind == "cuda" and compute_type == "int8_float32":  # bitsandbytes computes in halves
            return best, f"int8_float32: not on {facts.kind}, {best} is used"
        return wanted, ""
    if wanted == "float16" and facts.kind != "cpu":
        return wanted, ""
    if wanted == "bfloat16" and facts.kind == "cuda" and facts.has_bfloat16:
        return wanted, ""
    return best, f"{wanted}: not on {facts.device} here, {best} is used"


def _int8(facts: DeviceFacts, compute_type: str) -> tuple[bool, str]:
    if not compute_type.startswith("int8"):
        return False, "int8 weights: off, not asked for"
    if facts.kind == "mps":
        return False, "int8 weights: off, Metal has no kernels for them"
    if facts.kind == "cpu":
        return False, "int8 weights: off, hardly faster on a CPU; the engine ctranslate2 has them"
    missing = [name for name in ("bitsandbytes", "accelerate") if name not in facts.packages]
    if missing:
        return False, f"int8 weights: off, not installed: {', '.join(missing)}"
    return True, "int8 weights: on, bitsandbytes"


def _attention(facts: DeviceFacts, dtype: str) -> tuple[str, str]:
    """Choose the kernels of the encoder; the decoder's few queries use PyTorch's own everywhere."""
    if facts.kind != "cuda":
        return "sdpa", f"flash attention 2: off, {facts.kind} has none; PyTorch's own attention is used"
    reason = ""
    if "flash_attn" not in facts.packages:
        reason = "the package flash-attn is not installed"
    elif dtype == "float32":
        reason = "it computes in float16 and bfloat16 only"
    elif facts.compute_capability < (8, 0):
        reason = "it needs compute capability 8.0"
    if reason:
        return "sdpa", f"flash attention 2: off, {reason}; PyTorch's own kernels are used"
    return "flash_attention_2", "flash attention 2: on, in the encoder"


def _compile(facts: DeviceFacts, wants_compile: bool) -> tuple[bool, str]:
    if not wants_compile:
        return False, "torch.compile: off, not asked for (WHISPER_COMPILE)"
    if facts.kind == "mps":
        return False, "torch.compile: off, not on Metal"
    if facts.kind == "cuda" and "triton" not in facts.packages:
        return False, "torch.compile: off, not installed: triton"
    return True, "torch.compile: on, with a static cache"


def max_batch(facts: DeviceFacts, shape: ModelShape, *, bytes_per_value: int) -> int:
    """Return how many windows one call takes: a power of two that the free memory holds, at least 1.

    A batch that does not fit after all is halved by the scheduler, so an estimate is enough.
    """
    cap = MAX_BATCH.get(facts.kind, 1)
    if facts.free_bytes is None or facts.kind == "cpu":
        return cap
    fitting = int(facts.free_bytes * FREE_SHARE) // window_bytes(shape, bytes_per_value)
    return min(cap, 1 << max(0, fitting.bit_length() - 1))


def window_bytes(shape: ModelShape, bytes_per_value: int) -> int:
    """Return what one window of a batch takes at most, in bytes, weights left out.

    Keys and values of every decoder layer for the window (once for all beams) and for the text (once per
    beam, twice while beams change places), the encoder's widest activations (feed-forward, four times
    d_model, before and after its activation), and the scores over the vocabulary in float32. Or, in an
    alignment, the scores for many tokens at once: two copies and their exponentials.
    """
    cross = 2 * shape.decoder_layers * AUDIO_POSITIONS * shape.d_model
    text = 2 * 2 * shape.decoder_layers * GROUP * TEXT_POSITIONS * shape.d_model
    encoder = 2 * 4 * AUDIO_POSITIONS * shape.d_model
    search = (text + encoder) * bytes_per_value + 4 * 4 * GROUP * shape.vocabulary
    return cross * bytes_per_value + max(search, 3 * 4 * ALIGNED_POSITIONS * shape.vocabulary)


def busy_bytes(shape: ModelShape, batch: int, bytes_per_value: int) -> int:
    """Return what a loaded model takes beside its weights at the busiest moment, in bytes."""
    return KEPT_BYTES + int(GAPS * batch * window_bytes(shape, bytes_per_value))


def buckets(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to compile for: each four times the one before, and the largest."""
    sizes = []
    size = 1
    while size < largest:
        sizes.append(size)
        size *= 4
    return (*sizes, largest)
