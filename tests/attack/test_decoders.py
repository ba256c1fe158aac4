"""A crowd of files that take long, against a real server: clips of others go on."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import httpx
import psutil
import pytest

from tests.attack.conftest import LIMIT_S
from tests.conftest import Sample, StartServer
from tests.support.hostile_media import changing_rate, no_data_frames, one_sample_packets
from tests.support.http_requests import URL, form

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(sys.platform == "win32", reason="looks for processes as Linux and macOS have them"),
]

N_CLIPS = 8


def test_clips_go_on_beside_files_that_take_long(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    kinds = cycle(range(3))
    slow = [changing_rate(2000), one_sample_packets(400_000), no_data_frames(4 << 20)]

    def post(data: bytes) -> int:
        return httpx.post(f"{server.url}{URL}", **form(data), timeout=LIMIT_S).status_code

    assert post(speech.data) == 200
    statuses: set[int] = set()
    with ThreadPoolExecutor(8) as pool:
        attacks: set[Future[int]] = set()
        for number in range(N_CLIPS):
            while len(attacks) < 8:
                attacks.add(pool.submit(post, slow[next(kinds)]))
            assert post(speech.data) == 200, number
            assert httpx.get(f"{server.url}/health", timeout=LIMIT_S).status_code == 200
            done = {attack for attack in attacks if attack.done()}
            statuses |= {attack.result() for attack in done}
            attacks -= done
        statuses |= {attack.result() for attack in attacks}
    # 200 where the processor is so fast that one of them stays within its budget.
    assert statuses <= {200, 400, 429, 503}
    assert 400 in statuses
    assert server.stop() == 0


def test_decoders_that_are_stopped_again_and_again(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    for _ in range(5):
        response = httpx.post(f"{server.url}{URL}", **form(speech.data), timeout=LIMIT_S)
        assert response.status_code == 200
        for child in psutil.Process(server.process.pid).children():
            child.send_signal(signal.SIGSTOP)
    assert httpx.get(f"{server.url}/ready", timeout=LIMIT_S).status_code == 200
    assert server.stop() == 0
