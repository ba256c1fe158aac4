"""One step of the decoder: as it is, or compiled for batches of fixed sizes with a static cache.

Compiled code is made for shapes. Everything that may vary is therefore fixed: the cache always has all 448
positions, and a batch is filled up to one of a few sizes. All of them are compiled while the model loads;
a call of any other shape runs uncompiled. Should PyTorch see a difference all the same, it is told to run
uncompiled rather than to compile again, so that nothing is ever compiled inside a request.

Inductor's default mode is used, without CUDA graphs: those are tied to the thread that recorded them,
and calls come from the scheduler's threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_server.services.engines.base import BEST_OF
from whisper_server.services.engines.model_shape import TEXT_POSITIONS
from whisper_server.services.engines.torch.network import Cache, Network
from whisper_server.services.engines.torch.plan import Plan, buckets

log = logging.getLogger(__name__)

Tensor = Any  # torch.Tensor; the type checker runs without PyTorch
_PAGE = 32  # positions: how finely the part of the cache that is looked at grows


class PlainSteps:
    """Steps for batches of any size; the cache grows with the text."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def fit(self, n_windows: int, group: int) -> int:
        """Return the same number: no batch needs filling up."""
        del group
        return n_windows

    def __call__(self, tokens: Tensor, positions: NDArray[np.int64], cache: Cache) -> Tensor:
        """Read one token per row at its position; return scores float32 [rows, vocabulary]."""
        used = min(TEXT_POSITIONS, -(-(int(positions.max()) + 1) // _PAGE) * _PAGE)
        cache.grow(used)
        return self._network.step(tokens, torch.from_numpy(positions).to(tokens.device), cache, used)


class CompiledSteps:
    """Steps compiled for some batch sizes; other sizes are taken plainly."""

    def __init__(
        self, network: Network, sizes: Sequence[int], groups: Sequence[int], *, backend: str = "inductor"
    ) -> None:
        """Take the numbers of windows, and of rows per window, to compile for."""
        self._network = network
        self._plain = PlainSteps(network)
        self._sizes = tuple(sorted(sizes))
        self._groups = tuple(sorted(set(groups)))
        shapes = len(self._sizes) * len(self._groups)
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, 2 * shapes)
        self._compiled = torch.compile(network.step_raw, dynamic=False, fullgraph=True, backend=backend)
        self._ready: set[tuple[int, int]] = set()  # (rows, windows)

    def warm_up(self) -> None:
        """Compile for every shape; blocks, for minutes with a large model.

        Raises:
            Exception: whatever the compiler raises; nothing compiled is used then.
        """
        started = time.monotonic()
        network, device = self._network, self._network.device
        shape = (1, network.config.max_source_positions, network.config.d_model)
        silence = torch.zeros(shape, dtype=network.dtype, device=device)
        for size in self._sizes:
            for group in self._groups:
                cache = network.open_cache(silence.expand(size, -1, -1), group, TEXT_POSITIONS)
                tokens = torch.zeros(size * group, dtype=torch.int64, device=device)
                with torch.compiler.set_stance("default"):
                    self._run(tokens, tokens.clone(), cache)
                self._ready.add((size * group, size))
        log.info("compiled %d shapes in %.1f s", len(self._ready), time.monotonic() - started)

    def fit(self, n_windows: int, group: int) -> int:
        """Return the next size that is compiled, or the same number where there is none."""
        fitting = (size for size in self._sizes if size >= n_windows and (size * group, size) in self._ready)
        return next(fitting, n_windows)

    def __call__(self, tokens: Tensor, positions: NDArray[np.int64], cache: Cache) -> Tensor:
        """Read one token per row at its position; return scores float32 [rows, vocabulary]."""
        if (len(tokens), len(cache.cross[0][0])) not in self._ready:
            return self._plain(tokens, positions, cache)
        cache.grow(TEXT_POSITIONS)
        with torch.compiler.set_stance("eager_on_recompile"):
            return self._run(tokens, torch.from_numpy(positions).to(tokens.device), cache)

    def _run(self, tokens: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        cross = cache.cross
        return self._compiled(tokens, positions, cache.keys, cache.values, cross, TEXT_POSITIONS)


def choose_steps(
    network: Network, decided: Plan, batch: int, beam_size: int
) -> tuple[PlainSteps | CompiledSteps, tuple[str, ...]]:
    """Return how to take steps, compiled where that is wanted and works, and the notes on it all."""
    if not decided.compiles:
        return PlainSteps(network), decided.notes
    steps = CompiledSteps(network, buckets(batch), (beam_size, BEST_OF))
    try:
        with torch.inference_mode():
            steps.warm_up()
    except Exception as error:  # noqa: BLE001  (compilers raise anything; without them it works too)
        note = f"torch.compile: off, it failed: {str(error).splitlines()[0][:200]}"
        log.warning("%s", note)
        return PlainSteps(network), (*(one for one in decided.notes if "compile" not in one), note)
    return steps, decided.notes
