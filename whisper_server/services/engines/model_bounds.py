"""The numbers in a model's JSON files and the sizes of its tensors, checked before a library gets them; pure.

Libraries take them as they are: a count of heads of 0 ends the process with a division, a million layers are
made one by one, a token beyond the vocabulary is written behind its array. The limits are several times what
the largest published Whisper has (large-v3, in brackets), and below what any machine would suffer from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from whisper_server.services.engines.model_shape import AUDIO_POSITIONS, TEXT_POSITIONS, ModelShape

MAX_LAYERS = 128  # (32)
MAX_HEADS = 128  # (20)

# Least and most; what an encoder or decoder of another length would do with our windows is not known.
_CONFIG = {
    "d_model": (1, 8192),  # (1,280)
    "encoder_layers": (1, MAX_LAYERS),
    "decoder_layers": (1, MAX_LAYERS),
    "encoder_attention_heads": (1, MAX_HEADS),
    "decoder_attention_heads": (1, MAX_HEADS),
    "vocab_size": (1, 1 << 18),  # (51,866)
}
_OPTIONAL = {  # transformers has a default for them
    "encoder_ffn_dim": (1, 1 << 15),  # (5,120)
    "decoder_ffn_dim": (1, 1 << 15),  # (5,120)
    "num_mel_bins": (1, 512),  # (128)
    "max_source_positions": (AUDIO_POSITIONS, AUDIO_POSITIONS),
    "max_target_positions": (TEXT_POSITIONS, 1 << 14),  # (448)
}
_TOKENS = ("suppress_tokens", "begin_suppress_tokens", "suppress_ids", "suppress_ids_begin", "lang_ids")
_SHOWN_CHARS = 40

Shape = tuple[int, ...]


def check_config(config: Mapping[str, Any]) -> None:
    """Check the sizes in config.json of a Whisper model; raises ValueError with the field and its value."""
    for name, limits in _CONFIG.items():
        _check(name, config.get(name), *limits)
    for name, limits in _OPTIONAL.items():
        if config.get(name) is not None:
            _check(name, config[name], *limits)
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if config["d_model"] % config[name]:
            raise ValueError(f"d_model {config['d_model']} cannot be shared by {name} {config[name]}")
    check_tokens(config, config["vocab_size"])


def check_shape(shape: ModelShape) -> None:
    """Check the sizes of a converted model; raises ValueError with the field and its value."""
    for name, value in (
        ("d_model", shape.d_model),
        ("decoder_layers", shape.decoder_layers),
        ("vocab_size", shape.vocabulary),
    ):
        _check(name, value, *_CONFIG[name])


def check_tokens(fields: Mapping[str, Any], vocabulary: int) -> None:
    """Check the numbers of tokens, layers and heads that a config.json or generation_config.json lists.

    `fields` may be of transformers or CTranslate2, `vocabulary` is how many tokens there are. Raises
    ValueError with the field and the value.
    """
    for name in (
        "suppress_tokens",
        "begin_suppress_tokens",
        "suppress_ids",
        "suppress_ids_begin",
        "lang_ids",
    ):
        for token in _listed(name, fields.get(name), vocabulary):
            _check(name, token, 0, vocabulary - 1)
    languages = fields.get("lang_to_id") or {}
    if not isinstance(languages, dict):
        raise ValueError(f"lang_to_id is {_shown(languages)}, not an object")  # noqa: TRY004  (of a file)
    for token in languages.values():
        _check("lang_to_id", token, 0, vocabulary - 1)
    for pair in _listed("alignment_heads", fields.get("alignment_heads"), MAX_LAYERS * MAX_HEADS):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"alignment_heads has {_shown(pair)}, not a layer and a head")
        _check("alignment_heads", pair[0], 0, MAX_LAYERS - 1)
        _check("alignment_heads", pair[1], 0, MAX_HEADS - 1)


def check_tensors(config: Mapping[str, Any], shape_of: Callable[[str], Shape | None]) -> None:
    """Check that a checkpoint has every tensor that a checked config.json asks for, in its size.

    `shape_of` returns the shape of a tensor by its name in transformers' WhisperModel, None where there is
    none. Raises ValueError with the name, and the fields that the sizes come from.
    """
    for name, fields in _tensors(config):
        shape = shape_of(name)
        if shape is None:
            if name == "proj_out.weight":  # most share it with the embeddings
                continue
            raise ValueError(f"the weights lack {name}")
        wanted = tuple(_size(config, field) for field in fields)
        if len(shape) != len(wanted) or any(
            size not in (found, None) for found, size in zip(shape, wanted, strict=True)
        ):
            said = " x ".join(str(field) for field in fields)
            sizes = " x ".join("any" if size is None else str(size) for size in wanted)
            found = " x ".join(map(str, shape[:8]))
            raise ValueError(f"{name} is {found}, and by config.json {said} is {sizes}")


def _check(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        wanted = f"{least}" if least == most else f"a whole number from {least} to {most}"
        raise ValueError(f"{name} is {_shown(value)}, not {wanted}")


def _listed(name: str, values: object, most: int) -> list[Any]:
    """Return the values of a list of at most so many, none where there is no list."""
    if values is None:
        return []
    if not isinstance(values, list) or len(values) > most:
        raise ValueError(f"{name} is {_shown(values)}, not a list of at most {most}")
    return values


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _size(config: Mapping[str, Any], field: str | int) -> int | None:
    """Return a size by its field of config.json, None where the field is not there."""
    return field if isinstance(field, int) else config.get(field)


def _tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Yield the name of every tensor, and the fields of config.json that its sizes are in."""
    width = "d_model"
    yield "encoder.conv1.weight", (width, "num_mel_bins", 3)
    yield "encoder.conv1.bias", (width,)
    yield "encoder.conv2.weight", (width, width, 3)
    yield "encoder.conv2.bias", (width,)
    yield "encoder.embed_positions.weight", (AUDIO_POSITIONS, width)
    yield "decoder.embed_positions.weight", ("max_target_positions", width)
    yield "decoder.embed_tokens.weight", ("vocab_size", width)
    yield "proj_out.weight", ("vocab_size", width)
    for side in ("encoder", "decoder"):
        yield from _norm(f"{side}.layer_norm")
        hidden = f"{side}_ffn_dim"
        for index in range(config[f"{side}_layers"]):
            layer = f"{side}.layers.{index}"
            for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
                for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield f"{layer}.{attention}.{projection}.weight", (width, width)
                    if projection != "k_proj":  # keys have no bias in Whisper
                        yield f"{layer}.{attention}.{projection}.bias", (width,)
                yield from _norm(f"{layer}.{attention}_layer_norm")
            yield f"{layer}.fc1.weight", (hidden, width)
            yield f"{layer}.fc1.bias", (hidden,)
            yield f"{layer}.fc2.weight", (width, hidden)
            yield f"{layer}.fc2.bias", (width,)
            yield from _norm(f"{layer}.final_layer_norm")


def _norm(name: str) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    yield f"{name}.weight", ("d_model",)
    yield f"{name}.bias", ("d_model",)
