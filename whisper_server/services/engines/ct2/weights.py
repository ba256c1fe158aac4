"""CTranslate2's description of a Whisper model, filled with the weights of a checkpoint."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from whisper_server.services.engines.checkpoint import Checkpoint, language_ids

if TYPE_CHECKING:
    from whisper_server.services.engines.checkpoint import Tensor


def whisper_spec(checkpoint: Checkpoint, config: dict[str, Any]) -> Any:
    """Return CTranslate2's description of the model, filled with the weights."""
    from ctranslate2.specs import WhisperSpec  # noqa: PLC0415  (only when a model is converted)

    spec = WhisperSpec(
        config["encoder_layers"],
        config["encoder_attention_heads"],
        config["decoder_layers"],
        config["decoder_attention_heads"],
    )
    fill = _Filler(checkpoint, config.get("dtype") or config.get("torch_dtype"))
    fill.linear(spec.encoder.conv1, "encoder.conv1")
    fill.linear(spec.encoder.conv2, "encoder.conv2")
    for stack, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        stack.position_encodings.encodings = fill.tensor(f"{name}.embed_positions.weight")
        fill.norm(stack.layer_norm, f"{name}.layer_norm")
        for index, layer in enumerate(stack.layer):
            fill.layer(layer, f"{name}.layers.{index}")
    embeddings = fill.tensor("decoder.embed_tokens.weight")
    spec.decoder.embeddings.weight = embeddings
    is_tied = "proj_out.weight" not in checkpoint
    spec.decoder.projection.weight = embeddings if is_tied else fill.tensor("proj_out.weight")
    return spec


class _Filler:
    """Moves tensors from a checkpoint into CTranslate2's layers."""

    def __init__(self, checkpoint: Checkpoint, dtype: object) -> None:
        """Take the number format that config.json names; others leave tensors as they are stored."""
        self._checkpoint = checkpoint
        self._dtype = dtype if dtype in {"float16", "float32"} else None

    def tensor(self, name: str) -> Tensor:
        tensor = self._checkpoint.tensor(name)
        return tensor.astype(self._dtype, copy=False) if self._dtype else tensor

    def norm(self, spec: Any, name: str) -> None:
        spec.gamma, spec.beta = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")

    def linear(self, spec: Any, *names: str) -> None:
        """Set one linear or convolution layer, stacked from several; keys have no bias in Whisper."""
        import numpy as np  # noqa: PLC0415  (only when a model is converted)

        weights = [self.tensor(f"{name}.weight") for name in names]
        spec.weight = weights[0] if len(weights) == 1 else np.concatenate(weights)
        spec.bias = np.concatenate(
            [
                np.zeros(len(weight), dtype=weight.dtype)
                if name.endswith("k_proj")
                else self.tensor(f"{name}.bias")
                for name, weight in zip(names, weights, strict=True)
            ]
        )

    def layer(self, spec: Any, name: str) -> None:
        """Set an encoder layer, or a decoder layer, which has cross-attention too."""
        own = f"{name}.self_attn"
        self.linear(spec.self_attention.linear[0], f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
        self.linear(spec.self_attention.linear[1], f"{own}.out_proj")
        self.norm(spec.self_attention.layer_norm, f"{name}.self_attn_layer_norm")
        if hasattr(spec, "attention"):
            cross = f"{name}.encoder_attn"
            self.linear(spec.attention.linear[0], f"{cross}.q_proj")
            self.linear(spec.attention.linear[1], f"{cross}.k_proj", f"{cross}.v_proj")
            self.linear(spec.attention.linear[2], f"{cross}.out_proj")
            self.norm(spec.attention.layer_norm, f"{name}.encoder_attn_layer_norm")
        self.linear(spec.ffn.linear_0, f"{name}.fc1")
        self.linear(spec.ffn.linear_1, f"{name}.fc2")
        self.norm(spec.ffn.layer_norm, f"{name}.final_layer_norm")


def set_config(spec_config: Any, config: dict[str, Any], generation: dict[str, Any], tokenizer: Any) -> None:
    """Set what CTranslate2 keeps beside the weights: suppressed tokens, languages, alignment heads."""
    source = generation or config
    spec_config.suppress_ids = source.get("suppress_tokens")
    spec_config.suppress_ids_begin = source.get("begin_suppress_tokens")
    languages = generation.get("lang_to_id")
    spec_config.lang_ids = sorted(languages.values()) if languages else language_ids(tokenizer)
    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    # By default the upper half of the decoder, as in openai/whisper's model.py.
    upper_half = list(itertools.product(range(layers // 2, layers), range(heads)))
    # A distilled model often names the heads of the layers that its teacher had.
    named = [head for head in generation.get("alignment_heads") or () if head[0] < layers and head[1] < heads]
    spec_config.alignment_heads = named or upper_half
