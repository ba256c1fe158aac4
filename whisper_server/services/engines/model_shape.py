"""The sizes of a Whisper model, those that all have in common and those that differ; pure.

What a model and its batches take in memory follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from whisper_server.core.types import WINDOW_FRAMES

FRAMES_PER_POSITION = 2  # the stride of the encoder's second convolution
STEP_FRAMES = 300  # 3 s: the encoder gets a window, or so many frames, or twice, three times as many
AUDIO_POSITIONS = WINDOW_FRAMES // FRAMES_PER_POSITION  # 1,500: of the encoder's output, for one window
TEXT_POSITIONS = 448  # of the decoder: prompt and text
PROMPT_POSITIONS = TEXT_POSITIONS // 2  # 224; openai/whisper gives the other half to the text
HEAD_CHANNELS = 64  # of one attention head, in every Whisper

# What a loaded model takes beside the tensors that its sizes tell of.
KEPT_BYTES = 100_000_000  # whatever the size: tokenizer, vocabulary, sessions, buffers that stay
GAPS = 1.35  # allocators need more than what they give: there are gaps, and what was freed is kept


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a Whisper model."""

    d_model: int
    decoder_layers: int
    vocabulary: int

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.d_model // HEAD_CHANNELS
