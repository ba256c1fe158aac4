"""Which tokens may come next: Whisper's suppressed tokens and timestamp rules, for whole batches.

The rules are those of openai/whisper's decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules), as
CTranslate2 has them (whisper.cc), so that both engines choose the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_server.core.types import SECONDS_PER_TIMESTAMP

MAX_INITIAL_TIMESTAMP = round(1.0 / SECONDS_PER_TIMESTAMP)  # 50: the first phrase starts within a second

Tensor = Any  # torch.Tensor; the type checker runs without PyTorch
_NEVER = float("-inf")


class TokenRules:
    """The rules for one vocabulary, on one device."""

    def __init__(
        self,
        *,
        end: int,
        first_timestamp: int,
        vocabulary: int,
        suppressed: Sequence[int],
        suppressed_first: Sequence[int],
        device: Any,
    ) -> None:
        """Take the end token, where timestamps begin (they go on to the end of the vocabulary), and the
        tokens that never come, or never come first."""
        self._end = end
        self._first_timestamp = first_timestamp
        never = torch.zeros(vocabulary, dtype=torch.bool)
        never[[token for token in suppressed if 0 <= token < vocabulary]] = True
        never[first_timestamp - 1] = True  # <|notimestamps|>
        first = never.clone()
        first[[token for token in suppressed_first if 0 <= token < vocabulary]] = True
        first_plain = first.clone()
        first[:first_timestamp] = True
        first[first_timestamp + MAX_INITIAL_TIMESTAMP + 1 :] = True
        self._never, self._first = never.to(device), first.to(device)
        self._first_plain = first_plain.to(device)
        self._times = torch.arange(first_timestamp, vocabulary, device=device)

    def log_probabilities(
        self, logits: Tensor, written: NDArray[np.int64], *, timestamps: bool = True
    ) -> Tensor:
        """Return log-probabilities [R, vocabulary], -inf for what must not come after `written` [R, step].

        Without `timestamps`, as after <|notimestamps|>, there are no rules for them. Overwrites `logits`,
        float32.
        """
        is_first = not written.shape[1]
        if not timestamps:
            never = self._first_plain if is_first else self._never
            return torch.log_softmax(logits.masked_fill_(never, _NEVER), dim=-1)
        if is_first:
            return torch.log_softmax(logits.masked_fill_(self._first, _NEVER), dim=-1)
        logits.masked_fill_(self._never, _NEVER)
        earliest, closes = self._timestamps(written)
        device = logits.device
        times = logits[:, self._first_timestamp :]
        times.masked_fill_(self._times < torch.from_numpy(earliest).to(device)[:, None], _NEVER)
        closing = torch.from_numpy(closes).to(device)[:, None]
        logits[:, : self._end].masked_fill_(closing, _NEVER)
        # Where timestamps together are likelier than any other token, a timestamp comes.
        others = logits[:, : self._first_timestamp]
        is_time = torch.logsumexp(times, dim=-1) > others.amax(dim=-1)
        others.masked_fill_(is_time[:, None], _NEVER)
        return torch.log_softmax(logits, dim=-1)

    def _timestamps(self, written: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the first timestamp that may come, per row, and whether text may not come.

        Timestamps come in pairs, except before the end, and never run backwards.
        """
        steps = written.shape[1]
        is_time = written >= self._first_timestamp
        last_is_time = is_time[:, -1]
        before_is_time = is_time[:, -2] if steps > 1 else last_is_time
        place = steps - 1 - is_time[:, ::-1].argmax(axis=1)  # of the latest timestamp, where there is one
        latest = written[np.arange(len(written)), place]
        after_text = np.where(is_time.any(axis=1), latest + 1, 0)
        after_one = written[:, -1]  # the pair's second may be equal
        after_pair = np.iinfo(np.int64).max
        earliest = np.where(last_is_time, np.where(before_is_time, after_pair, after_one), after_text)
        return earliest.astype(np.int64), last_is_time & ~before_is_time
