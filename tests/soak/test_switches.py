"""Real models that take turns in one place: fifty switches, and no more memory than the first ones took."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from bench.figures import slope
from tests.conftest import NANO, Sample, StartServer
from tests.soak.watched import LIMIT_S, settled, start_watched
from tests.support.http_requests import URL, form

pytestmark = pytest.mark.slow

N_SWITCHES = 50
WARM = 21  # switches after which libraries have what they keep; odd, like the last: both end at one model
MODEL_BYTES = 10_000_000  # of the nano model: what a switch would leave that leaves a model
MOST_OBJECTS = 50  # that a switch may leave; the vocabulary of one model alone is thousands


def test_fifty_switches(start_server: StartServer, tmp_path: Path, speech: Sample) -> None:
    other = shutil.copytree(NANO, tmp_path / "other", ignore=shutil.ignore_patterns("samples"))
    watched = start_watched(
        start_server,
        tmp_path,
        *("--models", f"one={NANO},other={other}", "--max-models", "1", "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
    )
    turns, rss_bytes, objects = list[int](), list[int](), list[int]()
    for turn in range(N_SWITCHES):
        name = ("one", "other")[turn % 2]
        reply = httpx.post(f"{watched.server.url}{URL}", timeout=LIMIT_S, **form(speech.data, model=name))
        assert reply.json()["text"] == speech.text
        (state,) = httpx.get(f"{watched.server.url}/health").json()["models"]
        assert (state["name"], state["state"]) == (name, "ready")
        if turn == WARM:
            before = watched.held()
        if turn >= WARM:
            turns.append(turn)
            objects.append(watched.inside()["objects"])
            rss_bytes.append(watched.rss_bytes())
    print(rss_bytes, objects)
    assert settled(watched.held, before) == before
    assert slope(turns, objects) < MOST_OBJECTS, objects
    assert slope(turns, rss_bytes) < MODEL_BYTES / 10, rss_bytes
    assert watched.server.stop() == 0
    assert watched.traces() == []
