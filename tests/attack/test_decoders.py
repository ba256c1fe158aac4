"""A crowd of files that take long, against a real server: clips of others go on."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

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


def test_clips_go_on_beside_files_that_take_long(start_server: StartServer, speech: Sample) -> None:
    server = start_server()
    slow = [changing_rate(2000), one_sample_packets(400_000), no_data_frames(4 << 20)]

    def post(data: bytes) -> int:
        return httpx.post(f"{server.url}{URL}", **form(data), timeout=LIMIT_S).status_code

    assert post(speech.data) == 200
    with ThreadPoolExecutor(8) as pool:
        attacks = [pool.submit(post, slow[each % 3]) for each in range(12)]
        n_served = 0
        while not all(attack.done() for attack in attacks):
            assert post(speech.data) == 200
            assert httpx.get(f"{server.url}/health", timeout=LIMIT_S).status_code == 200
            n_served += 1
        assert {attack.result() for attack in attacks} <= {400, 429, 503}
    assert n_served >= 5
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
