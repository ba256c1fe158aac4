"""The server that is attacked, before anything is done to it."""

from __future__ import annotations

from tests.attack.conftest import check_serves
from tests.conftest import Sample, Server


def test_a_server_that_nobody_attacks(nano_server: Server, speech: Sample) -> None:
    check_serves(nano_server, speech)
    assert nano_server.stop() == 0
