"""The phase of the process and of its parts only goes forward."""

from __future__ import annotations

import pytest

from whisper_server.core.errors import ShuttingDown
from whisper_server.core.shutdown import Phase, Shutdown


def test_the_phases_come_in_order_and_stay() -> None:
    shutdown = Shutdown()
    shutdown.check_open()
    assert not shutdown.is_draining
    shutdown.drain()
    assert shutdown.phase is Phase.DRAINING
    with pytest.raises(ShuttingDown):
        shutdown.check_open()
    shutdown.close()
    shutdown.drain()
    assert shutdown.phase is Phase.CLOSED
    assert shutdown.is_draining


def test_a_part_is_never_behind_the_whole_and_does_not_end_it() -> None:
    whole = Shutdown()
    first, second = Shutdown(whole), Shutdown(whole)
    first.close()
    assert (first.phase, second.phase, whole.phase) == (Phase.CLOSED, Phase.OPEN, Phase.OPEN)
    whole.drain()
    assert (first.phase, second.phase, whole.phase) == (Phase.CLOSED, Phase.DRAINING, Phase.DRAINING)
