"""Batched greedy, sampling and beam search over one decoder: windows of different requests in one call.

The search is CTranslate2's (decoding.cc, whisper.cc), so that both engines find the same tokens: 2 K
candidates of K beams at each step; a finished hypothesis leaves its place to the next candidate; a window
is done when K hypotheses are finished; the best mean log-probability wins. Between two steps the search
asks which windows are still wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_server.services.engines.base import IsWanted, Sampling
from whisper_server.services.engines.model_shape import PROMPT_POSITIONS, TEXT_POSITIONS
from whisper_server.services.engines.torch.network import Cache, Network
from whisper_server.services.engines.torch.token_rules import TokenRules

MAX_NEW_TOKENS = TEXT_POSITIONS - PROMPT_POSITIONS

Tensor = Any  # torch.Tensor; the type checker runs without PyTorch


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a batch."""

    tokens: Sequence[Sequence[int]]
    start: int  # the start-of-transcript token, where "no speech" is read
    end: int  # the end token
    no_speech: int | None  # its token, where the vocabulary has one
    timestamps: bool = True  # False: all end with <|notimestamps|>
    most: int = MAX_NEW_TOKENS  # tokens that are wanted after each

    def room(self, window: int) -> int:
        """Return how many tokens may be written after a prompt."""
        return min(self.most, MAX_NEW_TOKENS, TEXT_POSITIONS - len(self.tokens[window]) + 1)


@dataclass(slots=True)
class Found:
    """What the search knows of one window: finished hypotheses, or candidates under way."""

    no_speech_prob: float = 0.0
    hypotheses: list[tuple[float, list[int]]] = field(default_factory=list)  # (log-probability, tokens)

    def best(self) -> tuple[float, list[int]]:
        """Return sum of log-probabilities and tokens of the hypothesis with the best mean."""
        return max(self.hypotheses, key=lambda one: one[0] / max(1, len(one[1])), default=(0.0, []))


class Steps(Protocol):
    """How the decoder takes one step; see `decoder_step`."""

    def fit(self, n_windows: int, group: int) -> int:
        """Return how many windows a batch must have to hold so many."""
        ...

    def __call__(self, tokens: Tensor, positions: NDArray[np.int64], cache: Cache) -> Tensor:
        """Read one token per row; return scores float32 [rows, vocabulary], which the caller may change."""
        ...


PADDING = -1  # in place of a window: rows that only fill a batch up to a compiled size


@dataclass(slots=True)
class _Batch:
    """The windows that are not done; W of them, G rows each."""

    alive: list[int]  # their numbers in the call, or PADDING
    written: NDArray[np.int64]  # [W * G, step]: tokens so far
    scores: NDArray[np.float32]  # [W, G]: sums of log-probabilities
    lengths: NDArray[np.int64]  # [W * G]: of the prompts
    finished: NDArray[np.bool_]  # [W, G]; sampling only


class Search:
    """One call of `generate`."""

    def __init__(
        self, network: Network, rules: TokenRules, prompts: Prompts, sampling: Sampling, steps: Steps
    ) -> None:
        """Take the model, what may be written, what is written already, and how to choose."""
        self._network = network
        self._rules = rules
        self._prompts = prompts
        self._temperature = sampling.temperature
        self._samples = sampling.temperature > 0
        self.group = sampling.best_of if self._samples else sampling.beam_size
        self._steps = steps
        self._found = [Found() for _ in prompts.tokens]
        self._draws = _draws(sampling.seeds, self.group) if self._samples else np.zeros(0, np.float32)

    def run(self, cache: Cache, is_wanted: IsWanted) -> list[Found]:
        """Search; row i of the result belongs to prompt i. The cache is empty, with `group` rows a window."""
        n_windows = len(self._prompts.tokens)
        logits = self._read_prompts(cache)  # [W, vocabulary]
        batch = _Batch(
            alive=list(range(n_windows)),
            written=np.zeros((n_windows * self.group, 0), np.int64),
            scores=np.zeros((n_windows, self.group), np.float32),
            lengths=np.repeat([len(prompt) for prompt in self._prompts.tokens], self.group),
            finished=np.zeros((n_windows, self.group), dtype=bool),
        )
        choose = self._sample if self._samples or self.group == 1 else self._beam
        while True:
            log_probs = self._rules.log_probabilities(
                logits, _first_of_groups(batch, logits), timestamps=self._prompts.timestamps
            )
            origins = choose(log_probs, batch)
            kept = self._still_searching(batch, is_wanted)
            if not kept:
                return self._found
            self._move(batch, cache, origins, kept)
            logits = self._next_logits(batch, cache)

    def _read_prompts(self, cache: Cache) -> Tensor:
        """Read all prompts, once per window; return the scores of the first token to write."""
        tokens, device = self._prompts.tokens, self._network.device
        longest = max(len(prompt) for prompt in tokens)
        padded = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in tokens], device=device)
        reading = Cache(cache.cross, cache.keys[:, : len(tokens)], cache.values[:, : len(tokens)], group=1)
        hidden, _ = self._network.read(padded, reading)
        rows = torch.arange(len(tokens), device=device)
        if self._prompts.no_speech is not None:
            places = torch.tensor([list(one).index(self._prompts.start) for one in tokens], device=device)
            silence = self._network.logits(hidden[rows, places]).softmax(dim=-1)[:, self._prompts.no_speech]
            for found, probability in zip(self._found, silence.tolist(), strict=True):
                found.no_speech_prob = probability
        cache.group = self.group
        copies = rows.repeat_interleave(self.group)
        cache.keys = reading.keys.index_select(1, copies)
        cache.values = reading.values.index_select(1, copies)
        lasts = torch.tensor([len(prompt) - 1 for prompt in tokens], device=device)
        return self._network.logits(hidden[rows, lasts])

    def _beam(self, log_probs: Tensor, batch: _Batch) -> NDArray[np.int64]:
        """Choose the beams' next tokens; return which row each comes from, [W, G]."""
        width, n_windows = self.group, len(batch.alive)
        is_first = log_probs.shape[0] == n_windows  # one row per window: all beams are still the same
        if not is_first:
            log_probs = log_probs + torch.from_numpy(batch.scores.reshape(-1, 1)).to(log_probs.device)
        top = log_probs.reshape(n_windows, -1).topk(2 * width, dim=-1)
        scores, flat = top.values.cpu().numpy(), top.indices.cpu().numpy()
        tokens, beams = flat % log_probs.shape[-1], flat // log_probs.shape[-1]
        origins = np.arange(n_windows)[:, None] * width + beams
        chosen = np.tile(np.arange(width), (n_windows, 1))
        for place in range(n_windows):
            chosen[place] = self._finish_beams(batch, place, origins[place], tokens[place], scores[place])
        batch.scores = np.take_along_axis(scores, chosen, axis=1)
        origins = np.take_along_axis(origins, chosen, axis=1)
        _write(batch, origins, np.take_along_axis(tokens, chosen, axis=1))
        return origins

    def _finish_beams(
        self,
        batch: _Batch,
        place: int,
        origins: NDArray[np.int64],
        tokens: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Register the finished ones of 2 K candidates, best first; return which K of them go on."""
        width, window = self.group, batch.alive[place]
        chosen = np.arange(width)
        is_end = tokens == self._prompts.end
        is_last = batch.written.shape[1] + 1 == self._prompts.room(window)
        if window == PADDING or not (is_last or is_end[:width].any()):
            return chosen
        spare = iter([j for j in range(width, 2 * width) if not is_end[j]])
        for beam in range(width):
            if is_last or is_end[beam]:
                text = batch.written[origins[beam]].tolist()
                if not is_end[beam]:
                    text.append(int(tokens[beam]))
                self._found[window].hypotheses.append((float(scores[beam]), text))
                chosen[beam] = next(spare, beam)
        batch.finished[place] = is_last or len(self._found[window].hypotheses) >= width
        return chosen

    def _sample(self, log_probs: Tensor, batch: _Batch) -> NDArray[np.int64]:
        """Choose each row's next token alone: the best, or one sampled; return the rows as they are."""
        n_windows = len(batch.alive)
        if log_probs.shape[0] == n_windows:
            log_probs = log_probs.repeat_interleave(self.group, dim=0)
        chosen = self._drawn(log_probs, batch) if self._samples else log_probs.argmax(dim=-1, keepdim=True)
        tokens = chosen.cpu().numpy().reshape(n_windows, self.group)
        gained = log_probs.gather(1, chosen).cpu().numpy().reshape(n_windows, self.group)
        origins = np.arange(n_windows * self.group).reshape(n_windows, self.group)
        before = batch.written
        batch.scores = batch.scores + np.where(batch.finished, np.float32(0), gained)
        _write(batch, origins, tokens)
        is_end = tokens == self._prompts.end
        for place, window in enumerate(batch.alive):
            if window == PADDING:
                continue
            is_last = before.shape[1] + 1 == self._prompts.room(window)
            for row in np.flatnonzero(~batch.finished[place] & (is_end[place] | is_last)):
                text = (before if is_end[place, row] else batch.written)[origins[place, row]].tolist()
                self._found[window].hypotheses.append((float(batch.scores[place, row]), text))
                batch.finished[place, row] = True
        return origins

    def _drawn(self, log_probs: Tensor, batch: _Batch) -> Tensor:
        """Draw a token per row, with the numbers of its window: others in the batch do not change them."""
        step = batch.written.shape[1]
        drawn = torch.from_numpy(self._draws[batch.alive, step].reshape(-1, 1)).to(log_probs.device)
        mass = (log_probs / self._temperature).softmax(dim=-1).cumsum(dim=-1)
        return torch.searchsorted(mass, drawn * mass[:, -1:], right=True)

    def _still_searching(self, batch: _Batch, is_wanted: IsWanted) -> list[int]:
        """Return the places in the batch that go on; a cancelled window ends with what there is."""
        kept = []
        for place, window in enumerate(batch.alive):
            if window == PADDING or batch.finished[place].all():
                continue
            if is_wanted(window):
                kept.append(place)
            elif not self._found[window].hypotheses:
                text = batch.written[place * self.group].tolist()
                self._found[window].hypotheses.append((float(batch.scores[place, 0]), text))
        return kept

    def _move(self, batch: _Batch, cache: Cache, origins: NDArray[np.int64], kept: list[int]) -> None:
        """Let the cache's rows follow the beams, and leave behind the windows that are done."""
        n_windows = len(batch.alive)
        n_padding = self._steps.fit(len(kept), self.group) - len(kept)
        places = [*kept, *kept[:1] * n_padding]
        rows = origins[places].reshape(-1)
        if not np.array_equal(rows, np.arange(n_windows * self.group)):
            cache.take_rows(torch.from_numpy(rows).to(self._network.device))
        if places == list(range(n_windows)):
            return
        cache.take_windows(torch.tensor(places, device=self._network.device))
        in_place = (np.array(places)[:, None] * self.group + np.arange(self.group)).reshape(-1)
        batch.alive = [batch.alive[place] for place in kept] + [PADDING] * n_padding
        batch.written, batch.lengths = batch.written[in_place], batch.lengths[in_place]
        batch.scores, batch.finished = batch.scores[places], batch.finished[places]

    def _next_logits(self, batch: _Batch, cache: Cache) -> Tensor:
        """Read the tokens just written; return scores [W * G, vocabulary]."""
        tokens = torch.from_numpy(np.ascontiguousarray(batch.written[:, -1])).to(self._network.device)
        return self._steps(tokens, batch.lengths + batch.written.shape[1] - 1, cache)


def _draws(seeds: Sequence[int], group: int) -> NDArray[np.float32]:
    """Return [window, step, candidate] in [0, 1), for as many tokens as a window may have.

    They stay so far below 1 that, times a sum of probabilities, they stay below the sum.
    """
    shape = (MAX_NEW_TOKENS, group)
    drawn = [np.random.Generator(np.random.PCG64(seed)).random(shape, np.float32) for seed in seeds]
    return np.stack(drawn) * np.float32(1 - 2**-20)


def _first_of_groups(batch: _Batch, logits: Tensor) -> NDArray[np.int64]:
    """Return what is written in the rows that the scores are of; at the first step one row per window."""
    return batch.written[: logits.shape[0]]


def _write(batch: _Batch, origins: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
    batch.written = np.concatenate([batch.written[origins.reshape(-1)], tokens.reshape(-1, 1)], axis=1)
