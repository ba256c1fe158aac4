"""Windows that overlap -> who speaks when."""

from __future__ import annotations

import numpy as np

from whisper_server.services.speakers import turns
from whisper_server.services.speakers.turns import Run, Scene, runs


def scene(first: int, *voices: str, n_frames: int | None = None) -> Scene:
    active = np.array([[mark == "x" for mark in voice] for voice in voices]).T
    return Scene(first, active, len(active) if n_frames is None else n_frames)


def test_windows_agree() -> None:
    scenes = [scene(0, "xxxx....", "....xxxx"), scene(4, "xxxx..", "....xx")]
    assert runs(scenes, [[0, 1], [1, 0]], 2, 0, 10) == [Run(0, 4, 0), Run(4, 8, 1), Run(8, 10, 0)]


def test_two_at_once() -> None:
    found = runs([scene(0, "xxxxxx..", "....xxxx")], [[1, 0]], 2, 0, 8)
    assert found == [Run(0, 6, 1), Run(4, 8, 0)]


def test_the_majority_of_windows_decides() -> None:
    scenes = [scene(0, "xxxx"), scene(0, "xxxx"), scene(0, "xxxx")]
    assert runs(scenes, [[0], [1], [1]], 2, 0, 4) == [Run(0, 4, 1)]
    assert runs([scene(0, "xx.."), scene(0, "...."), scene(0, "....")], [[0], [0], [0]], 1, 0, 4) == []


def test_voices_of_nobody_and_padding_say_nothing() -> None:
    assert runs([scene(0, "xxxx")], [[-1]], 1, 0, 4) == []
    assert runs([scene(0, "xxxx", n_frames=2)], [[0]], 1, 0, 4) == [Run(0, 2, 0)]
    assert runs([], [], 0, 0, 4) == []


def test_a_stretch_of_the_file() -> None:
    scenes = [scene(0, "xxxxxxxx")]
    assert runs(scenes, [[0]], 1, 2, 5) == [Run(2, 5, 0)]


def test_chunks_have_no_seams(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    scenes = [Scene(first, rng.random((40, 2)) > 0.5, 40) for first in range(0, 160, 10)]
    speakers = [[0, 1] if i % 2 else [1, 2] for i in range(len(scenes))]
    whole = runs(scenes, speakers, 3, 0, 200)
    monkeypatch.setattr(turns, "_CHUNK_FRAMES", 7)
    assert runs(scenes, speakers, 3, 0, 200) == whole
