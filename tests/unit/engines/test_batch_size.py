"""How many windows go in one call on a CPU: what the sizes of the model leave room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import NANO
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.folder import shape_of
from whisper_server.services.engines.ct2.load import max_batch_of
from whisper_server.services.engines.model_shape import ModelShape

VOCABULARY = 51865
TINY, BASE = ModelShape(384, 4, VOCABULARY), ModelShape(512, 6, VOCABULARY)
SMALL, LARGE = ModelShape(768, 12, VOCABULARY), ModelShape(1280, 32, VOCABULARY)


@pytest.mark.parametrize(
    ("shape", "workers", "batch"),
    [(TINY, 2, 4), (TINY, 1, 4), (BASE, 2, 4), (SMALL, 2, 1), (SMALL, 1, 2), (LARGE, 2, 1), (LARGE, 1, 1)],
)
def test_keys_and_values_stay_within_their_share(shape: ModelShape, workers: int, batch: int) -> None:
    assert max_batch_of("cpu", shape, workers, 8) == batch


@pytest.mark.parametrize(
    ("workers", "threads", "batch"), [(2, 2, 1), (2, 3, 1), (1, 1, 1), (2, 4, 4), (1, 2, 4)]
)
def test_a_worker_with_one_thread_takes_one_window(workers: int, threads: int, batch: int) -> None:
    assert max_batch_of("cpu", TINY, workers, threads) == batch


def test_a_gpu_takes_what_it_gains_from() -> None:
    assert max_batch_of("cuda", LARGE, 1, 1) == 16


def test_sizes_are_read_from_both_kinds_of_folder(nano_cache: Path) -> None:
    assert (
        shape_of(NANO) == shape_of(ensure_converted(NANO, nano_cache, "int8")) == ModelShape(128, 4, 51_865)
    )
