"""A Hugging Face Whisper folder -> the .pt file that openai-whisper loads; runs in that peer's environment.

python openai_weights.py FOLDER FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RENAMED = (
    ("model.", ""),
    ("layers.", "blocks."),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("self_attn_layer_norm", "attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("encoder_attn", "cross_attn"),
    ("self_attn", "attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
)


def renamed(name: str) -> str:
    """Return openai-whisper's name of a tensor."""
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours, 1)
    return name


def dimensions(config: dict[str, int]) -> dict[str, int]:
    """Return the sizes as openai-whisper calls them."""
    return {
        "n_mels": config["num_mel_bins"],
        "n_audio_ctx": config["max_source_positions"],
        "n_audio_state": config["d_model"],
        "n_audio_head": config["encoder_attention_heads"],
        "n_audio_layer": config["encoder_layers"],
        "n_vocab": config["vocab_size"],
        "n_text_ctx": config["max_target_positions"],
        "n_text_state": config["d_model"],
        "n_text_head": config["decoder_attention_heads"],
        "n_text_layer": config["decoder_layers"],
    }


def main() -> None:
    import torch
    from safetensors.torch import load_file

    folder, file = map(Path, sys.argv[1:])
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    state = {renamed(name): tensor for name, tensor in tensors.items() if name != "proj_out.weight"}
    torch.save({"dims": dimensions(config), "model_state_dict": state}, file)


if __name__ == "__main__":
    main()
