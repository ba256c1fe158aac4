"""The forward passes of Whisper over transformers' modules, with a cache laid out for batched search.

The modules (weights, quantised or not) are transformers'; the decoder's pass over them is ours, because
theirs keeps the keys and values of the audio once per beam (five times the memory), has no attention
scores without the slow eager kernels, and changes its cache classes between versions.

Layout. A batch has W windows; each is a group of G rows (beams, or candidates), so rows R = W * G. The
audio's keys and values exist once per window, [W, heads, 1500, 64]: the rows of a group are queries to
the same keys. Prompts of different length start at position 0 and are padded on the right: position and
cache index are the same number, the prompt pass is plainly causal (which the flash kernels like), and
every row then goes on at its own length. Later writes cover the padding, and a row sees only what lies at
or before its own position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from whisper_server.services.engines.model_shape import TEXT_POSITIONS

_BLOCK = 64  # positions that a cache grows by

Tensor = Any  # torch.Tensor; the type checker runs without PyTorch


@dataclass(slots=True)
class Cache:
    """Keys and values of one batch: of the audio per window, of the text per row."""

    cross: list[tuple[Tensor, Tensor]]  # per layer, [W, heads, 1500, head_dim]
    keys: Tensor  # [layers, R, heads, capacity, head_dim]
    values: Tensor
    group: int  # rows per window

    def grow(self, n_positions: int) -> None:
        """Make room for so many positions."""
        missing = n_positions - self.keys.shape[3]
        if missing > 0:
            missing = min(-(-missing // _BLOCK) * _BLOCK, TEXT_POSITIONS - self.keys.shape[3])
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, missing))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, missing))

    def take_rows(self, origins: Tensor) -> None:
        """Let row i go on from what row origins[i] has; the windows stay."""
        self.keys = self.keys.index_select(1, origins)
        self.values = self.values.index_select(1, origins)

    def take_windows(self, windows: Tensor) -> None:
        """Keep these windows' audio; their rows are moved with `take_rows`."""
        self.cross = [(k.index_select(0, windows), v.index_select(0, windows)) for k, v in self.cross]


class Network:
    """One Whisper model on one device."""

    def __init__(self, model: Any) -> None:
        """Take transformers' WhisperForConditionalGeneration."""
        self.model = model
        self._decoder = model.model.decoder
        self.config = model.config
        self.dtype = model.model.encoder.conv1.weight.dtype
        self.device = model.model.encoder.conv1.weight.device
        self._heads = self.config.decoder_attention_heads
        self._head_dim = self.config.d_model // self._heads

    def encode(self, mels: Tensor) -> Tensor:
        """Map mels [W, n_mels, 3000] to [W, 1500, d_model]."""
        return self.model.model.encoder(mels.to(self.device, self.dtype)).last_hidden_state

    def open_cache(self, encoded: Tensor, group: int, capacity: int = 0) -> Cache:
        """Return an empty cache for windows [W, 1500, d_model]."""
        cross = []
        for layer in self._decoder.layers:
            attention = layer.encoder_attn
            both = (self._split(attention.k_proj(encoded)), self._split(attention.v_proj(encoded)))
            # One layout from the start: compiled code is for strides too, and selecting windows keeps these.
            cross.append((both[0].contiguous(), both[1].contiguous()))
        rows = encoded.shape[0] * group
        shape = (len(cross), rows, self._heads, capacity, self._head_dim)
        empty = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return Cache(cross, empty, empty.clone(), group)

    def read(
        self,
        tokens: Tensor,
        cache: Cache,
        *,
        watched: Mapping[int, Sequence[int]] | None = None,
        keeps: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """Read prompts [R, T] from position 0 on; return hidden states [R, T, d_model].

        `watched` names heads per layer whose scores over the audio (before the softmax) are returned too,
        float32 [R, heads, T, 1500] per layer. With `keeps` the cache remembers the tokens.
        """
        length = tokens.shape[1]
        if keeps:
            cache.grow(length)
        hidden = self._embed(tokens, torch.arange(length, device=self.device))
        scores: list[Tensor] = []
        for index, layer in enumerate(self._decoder.layers):
            attention = layer.self_attn
            normed = layer.self_attn_layer_norm(hidden)
            query, key, value = self._project(attention, normed)
            if keeps:
                cache.keys[index, :, :, :length] = key
                cache.values[index, :, :, :length] = value
            mixed = scaled_dot_product_attention(query, key, value, is_causal=length > 1)
            hidden = hidden + attention.out_proj(self._join(mixed))
            if watched and index in watched:
                scores.append(self._scores(layer, hidden, cache, index, watched[index]))
            hidden = self._cross_and_mlp(layer, hidden, cache.cross[index], cache.group)
        return self._decoder.layer_norm(hidden), scores

    def follow(
        self, encoded: Tensor, sequences: Sequence[list[int]], watched: Mapping[int, Sequence[int]], end: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read whole sequences [R], filled up to the longest one with `end`.

        Returns:
            How the watched heads score the audio (before the softmax) [R, heads, T, 1500], and how probable
            the token after each is among the text tokens, those below `end` [R, T].
        """
        longest = max(map(len, sequences))
        padded = [[*one, *[end] * (longest - len(one))] for one in sequences]
        tokens = torch.tensor(padded, device=self.device)
        hidden, scores = self.read(tokens, self.open_cache(encoded, 1), watched=watched, keeps=False)
        following = tokens.roll(-1, dims=1).clamp_max(end - 1)
        logits = self.logits(hidden)[..., :end]
        probabilities = logits.softmax(dim=-1).gather(2, following[..., None])[..., 0]
        return torch.cat(scores, dim=1).cpu().numpy(), probabilities.cpu().numpy()

    def step(self, tokens: Tensor, positions: Tensor, cache: Cache, used: int) -> Tensor:
        """Read a token per row at positions [R], all below `used`; return scores float32 [R, vocabulary]."""
        return self.step_raw(tokens, positions, cache.keys, cache.values, cache.cross, used)

    def step_raw(  # noqa: PLR0917  (compiled as it is: bare tensors, in order)
        self,
        tokens: Tensor,
        positions: Tensor,
        keys: Tensor,
        values: Tensor,
        cross: Sequence[tuple[Tensor, Tensor]],
        used: int,
    ) -> Tensor:
        """`step` on bare tensors, which is what gets compiled; writes into `keys` and `values`."""
        rows = torch.arange(tokens.shape[0], device=self.device)
        seen = (torch.arange(used, device=self.device)[None] <= positions[:, None])[:, None, None]
        group = tokens.shape[0] // cross[0][0].shape[0]
        hidden = self._embed(tokens[:, None], positions[:, None])
        for index, layer in enumerate(self._decoder.layers):
            attention = layer.self_attn
            query, key, value = self._project(attention, layer.self_attn_layer_norm(hidden))
            keys[index, rows, :, positions] = key[:, :, 0]
            values[index, rows, :, positions] = value[:, :, 0]
            mixed = scaled_dot_product_attention(
                query, keys[index, :, :, :used], values[index, :, :, :used], attn_mask=seen
            )
            hidden = hidden + attention.out_proj(self._join(mixed))
            hidden = self._cross_and_mlp(layer, hidden, cross[index], group)
        return self.logits(self._decoder.layer_norm(hidden)[:, 0])

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., d_model] to scores over the vocabulary, float32."""
        return self.model.proj_out(hidden).float()

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        scale = self.config.d_model**0.5 if self.config.scale_embedding else 1.0
        embedded = self._decoder.embed_tokens(tokens) * scale
        return embedded + self._decoder.embed_positions.weight[positions]

    def _project(self, attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self._split(attention.q_proj(hidden)),
            self._split(attention.k_proj(hidden)),
            self._split(attention.v_proj(hidden)),
        )

    def _cross_and_mlp(self, layer: Any, hidden: Tensor, cross: tuple[Tensor, Tensor], group: int) -> Tensor:
        """Run the second half of a layer, cross-attention and MLP; hidden [R, T, d_model]."""
        attention = layer.encoder_attn
        query = self._split(attention.q_proj(layer.encoder_attn_layer_norm(hidden)))  # [R, heads, T, dim]
        rows, heads, length, dim = query.shape
        grouped = query.reshape(rows // group, group, heads, length, dim).transpose(1, 2)
        mixed = scaled_dot_product_attention(
            grouped.reshape(rows // group, heads, group * length, dim), cross[0], cross[1]
        )
        mixed = mixed.reshape(rows // group, heads, group, length, dim).transpose(1, 2)
        hidden = hidden + attention.out_proj(self._join(mixed.reshape(rows, heads, length, dim)))
        normed = layer.final_layer_norm(hidden)
        return hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))

    def _scores(self, layer: Any, hidden: Tensor, cache: Cache, index: int, heads: Sequence[int]) -> Tensor:
        """Return how these heads score the audio: float32 [R, heads, T, 1500]; groups of one row only."""
        assert cache.group == 1, "alignment has no beams"
        query = self._split(layer.encoder_attn.q_proj(layer.encoder_attn_layer_norm(hidden)))
        chosen = torch.tensor(list(heads), device=self.device)
        query = query.index_select(1, chosen).float() * self._head_dim**-0.5
        return query @ cache.cross[index][0].index_select(1, chosen).float().transpose(-1, -2)

    def _split(self, x: Tensor) -> Tensor:
        """[N, T, d_model] -> [N, heads, T, head_dim]."""
        return x.reshape(*x.shape[:2], self._heads, self._head_dim).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        """[N, heads, T, head_dim] -> [N, T, d_model]."""
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)
