"""Engine `fake`: no model, no library; drives the HTTP tests.

Deterministic, and different for different audio: its text counts the frames of the window that hold
sound, so that a reply which belongs to another request shows. `GATE` lets a test hold the device
while it looks at what waits; `TRAPS` lets it break the device, at any stage and in any way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whisper_server.core.languages import NAMES
from whisper_server.core.types import FRAMES_PER_SECOND, SECONDS_PER_TIMESTAMP, WINDOW_S
from whisper_server.services.engines.base import (
    Alignment,
    Encoded,
    EngineInfo,
    EngineSpec,
    Hypothesis,
    IsWanted,
    Sampling,
    everything,
)
from whisper_server.services.engines.tokenizer import Tokenizer

GATE = threading.Event()
GATE.set()
NOT_SURE_LOGPROB = -0.7  # good enough, but what it says of sound without a voice is not to be believed
BYTES_PER_S = 8  # of slow speech
MIN_LETTERS = 24  # of a short text without more words
WORDS = (
    "of sound in this window before its end which an engine that knows no language can count but not tell "
    "apart since all it ever learned are loud and quiet columns of numbers so do not expect much sense from "
    "what follows here"
)
TRAPS: dict[
    str, Callable[[int], None]
] = {}  # by stage, "load" or a method; called with the number of windows


def load(_folder: Path, _spec: EngineSpec, _cache_dir: Path) -> FakeEngine:
    """Return an engine at once."""
    _trap("load", 1)
    return FakeEngine()


def build_tokenizer() -> Tokenizer:
    """Return a byte-level vocabulary with Whisper's special tokens: 256 byte tokens, then specials."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers  # noqa: PLC0415
    from tokenizers import Tokenizer as RawTokenizer  # noqa: PLC0415

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = ["endoftext", "startoftranscript", *NAMES, "translate", "transcribe", "startoflm"]
    specials += ["startofprev", "nospeech", "notimestamps"]
    steps = round(WINDOW_S / SECONDS_PER_TIMESTAMP) + 1
    specials += [f"{step * SECONDS_PER_TIMESTAMP:.2f}" for step in range(steps)]
    raw.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in specials])
    return Tokenizer.from_raw(raw, is_multilingual=True)


class _FakeEncoded:
    """Frames of sound per row."""

    def __init__(self, frames: Sequence[int]) -> None:
        self.frames = tuple(frames)

    def select(self, rows: Sequence[int]) -> _FakeEncoded:
        """Return these rows."""
        return _FakeEncoded([self.frames[row] for row in rows])


class FakeEngine:
    """Writes how many frames of sound it was given, as one segment over them."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.info = EngineInfo(
            "fake", "cpu", "none", 80, is_multilingual=True, max_batch=4, workers=1, memory_bytes=0
        )

    def encode(self, mels: NDArray[np.float32]) -> Encoded:
        """Count, per row, the frames up to the last one that is louder than the quietest."""
        GATE.wait()
        _trap("encode", len(mels))
        loud = mels.max(axis=1) > mels.min(axis=(1, 2))[:, None]
        return _FakeEncoded([int(row.nonzero()[0].max(initial=-1)) + 1 for row in loud])

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        """Return English for every row."""
        assert isinstance(encoded, _FakeEncoded)
        _trap("detect_language", len(encoded.frames))
        return [{"en": 0.9, "de": 0.1} for _ in encoded.frames]

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        is_wanted: IsWanted = everything,
    ) -> list[Hypothesis]:
        """Write the number of frames, and the first text of the prompt where there is one."""
        assert isinstance(encoded, _FakeEncoded)
        del sampling, is_wanted
        _trap("generate", len(prompts))
        return [self._written(frames, prompt) for frames, prompt in zip(encoded.frames, prompts, strict=True)]

    def _written(self, frames: int, prompt: Sequence[int]) -> Hypothesis:
        prompt_text = self.tokenizer.text(prompt).strip()
        text = f" heard {frames} frames" + _more_words(frames)
        text += f" after {prompt_text}" if prompt_text else ""
        first = self.tokenizer.first_timestamp
        end = first + round(frames / FRAMES_PER_SECOND / SECONDS_PER_TIMESTAMP)
        body = self.tokenizer.encode(text)
        return Hypothesis((first, *body, end), avg_logprob=NOT_SURE_LOGPROB, no_speech_prob=0.0)

    def align(
        self,
        encoded: Encoded,
        start_sequences: Sequence[Sequence[int]],
        text_tokens: Sequence[Sequence[int]],
        n_frames: Sequence[int],
    ) -> list[Alignment]:
        """Divide the sound evenly among the tokens."""
        del encoded, start_sequences
        _trap("align", len(text_tokens))
        return [
            Alignment(
                tuple(i * frames / FRAMES_PER_SECOND / len(tokens) for i in range(len(tokens) + 1)),
                (1.0,) * len(tokens),
            )
            for tokens, frames in zip(text_tokens, n_frames, strict=True)
        ]

    def close(self) -> None:
        """Do nothing: there is no memory to give back."""


def _more_words(frames: int) -> str:
    """Return as many words as speech has in this time: with fewer, some would seem to be left out."""
    letters, text = BYTES_PER_S * frames // FRAMES_PER_SECOND, ""
    for word in WORDS.split():
        if len(text) + MIN_LETTERS < letters:
            text += f" {word}"
    return text


def _trap(stage: str, n_windows: int) -> None:
    trap = TRAPS.get(stage)
    if trap is not None:
        trap(n_windows)
