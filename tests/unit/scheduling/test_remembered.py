"""A stream that knows some answers: the device is asked for the others alone, and for each that differs."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.held_device import PLAIN, WARM, answer, job, said
from whisper_server.core.types import Decoded, DecodeOptions, WindowJob
from whisper_server.services.scheduling.remembered import RememberedStream, key_of


class Counting:
    """Answers at once, and counts."""

    ahead = 3

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self._error = error

    def submit(self, window: WindowJob, options: DecodeOptions) -> Future[Decoded]:
        self.asked.append(window.prompt)
        future: Future[Decoded] = Future()
        if self._error is None:
            future.set_result(answer(window.prompt))
        else:
            future.set_exception(self._error)
        return future


class Memory(dict[str, Decoded]):
    def recall(self, key: str) -> Decoded | None:
        return self.get(key)

    def note(self, key: str, decoded: Decoded) -> None:
        self[key] = decoded


def test_what_is_known_is_not_asked_again() -> None:
    device, memory = Counting(), Memory()
    stream = RememberedStream(device, memory)
    assert [said(stream.submit(job(name), PLAIN)) for name in "aba"] == ["a", "b", "a"]
    assert device.asked == ["a", "b"]
    later = RememberedStream(Counting(), memory)
    assert said(later.submit(job("b"), PLAIN)) == "b"
    assert later.ahead == device.ahead


def test_failures_and_cancellations_are_not_kept() -> None:
    memory = Memory()
    with pytest.raises(RuntimeError):
        said(RememberedStream(Counting(RuntimeError()), memory).submit(job("a"), PLAIN))
    assert memory == {}


CHANGES: list[dict[str, Any]] = [
    {"language": "de"},
    {"prompt": "other"},
    {"candidates": ("en",)},
    {"keywords": "x"},
    {"task": "translate"},
    {"word_timestamps": True},
    {"seed": 1},
    {"switches": True},
    {"tokens": (1,)},
]


@pytest.mark.parametrize("changed", CHANGES, ids=lambda each: next(iter(each)))
def test_whatever_may_change_the_answer_is_in_the_key(changed: dict[str, Any]) -> None:
    one = job("a")
    assert key_of(replace(one, **changed), PLAIN) != key_of(one, PLAIN)
    # A field that is added later is in it too.
    assert {next(iter(each)) for each in CHANGES} == set(WindowJob.__dataclass_fields__) - {"window"}


def test_the_sound_and_the_options_are_in_the_key() -> None:
    one = job("a")
    louder = replace(one.window, mel=one.window.mel + np.float32(1e-6))
    longer = replace(one.window, duration_s=2.0)
    spoken = replace(one.window, voice=(0.5,))
    keys = {key_of(replace(one, window=each), PLAIN) for each in (one.window, louder, longer, spoken)}
    assert len(keys | {key_of(one, WARM)}) == 5
    assert key_of(one, PLAIN) == key_of(job("a"), PLAIN)
