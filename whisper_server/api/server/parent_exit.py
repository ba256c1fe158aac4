"""Which processes the server ends with: the one that started it, or one that it was told of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from whisper_server.core.config import Settings
from whisper_server.core.errors import ConfigError
from whisper_server.core.system.process_watch import Watch, is_one_file, open_parent_watch, open_watch

log = logging.getLogger(__name__)


def open_watches(settings: Settings, parent_pid: int) -> dict[int, Watch]:
    """Return watches of the processes that the settings name, by number; `parent_pid`: that at the start.

    Raises:
        ConfigError: one is not there, or is not the one that was meant.
    """
    watches = {}
    if settings.parent_pid:
        watches[settings.parent_pid] = _open("WHISPER_PARENT_PID", open_watch, settings.parent_pid)
    if settings.exit_with_parent:
        if is_one_file() and not watches:
            raise ConfigError(
                "WHISPER_EXIT_WITH_PARENT: the parent of a one-file executable is its own unpacker, which"
                " outlives the app. Set WHISPER_PARENT_PID to the number of the app's process."
            )
        watches[parent_pid] = _open("WHISPER_EXIT_WITH_PARENT", open_parent_watch, parent_pid)
    return watches


@contextmanager
def watching(watches: Mapping[int, Watch], stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the running event loop when one of the processes ends; watch until the block is left."""

    def on_end(pid: int) -> None:
        log.info("process %d has ended, and this server ends with it", pid)
        stop()

    with ExitStack() as stack:
        for pid, watch in watches.items():
            stack.callback(watch.stop)
            watch.start(partial(on_end, pid))
        yield


def _open(variable: str, open_one: Callable[[int], Watch], pid: int) -> Watch:
    try:
        return open_one(pid)
    except ProcessLookupError as error:
        raise ConfigError(f"{variable}: there is no process {pid}; it may have ended already") from error
    except OSError as error:
        raise ConfigError(f"{variable}: cannot watch process {pid}: {error.strerror}") from error
