"""Sixteen live sessions on one device: beside a long file, with a client that takes nothing, at the end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import NANO, Sample, Server, StartServer, servers
from tests.support.http_requests import URL, form
from tests.support.long_audio import speak_for
from tests.support.realtime_client import RealtimeClient, pcm16, session

pytestmark = pytest.mark.long

N_SESSIONS = 16
FILE_S = 900  # more windows than the sessions have turns
TIMEOUT_S = 60


def settings(nano_cache: Path) -> dict[str, str]:
    return {
        "WHISPER_ENGINE": "ctranslate2",
        "WHISPER_MODEL": str(NANO),
        "WHISPER_CACHE_DIR": str(nano_cache),
        "WHISPER_OFFLINE": "true",
        "WHISPER_THREADS": "1",
        "WHISPER_QUEUE_REQUESTS": str(N_SESSIONS + 1),
        "WHISPER_STALL_TIMEOUT_S": "1",
        "MAX_AUDIO_FILE_SIZE_MB": "64",
    }


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory, nano_cache: Path) -> Iterator[Server]:
    """A server with room for the sessions and one file."""
    with servers(tmp_path_factory.mktemp("many")) as start:
        yield start(**settings(nano_cache))


@contextlib.contextmanager
def sessions(server: Server) -> Iterator[list[RealtimeClient]]:
    """Open the sessions, whose clients commit."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(session(server.url)) for _ in range(N_SESSIONS)]
        for client in clients:
            client.update(turn_detection=None)
        yield clients


class LongFile(threading.Thread):
    """An upload whose text is streamed; it is given up when it is left."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._url = f"{server.url}/v1/audio/transcriptions"
        self._is_left = False
        self._changed = threading.Condition()
        self.n_events = 0
        self.is_done = False

    def run(self) -> None:
        files, fields = {"file": speak_for(FILE_S)}, {"stream": "true"}
        with httpx.stream("POST", self._url, files=files, data=fields, timeout=TIMEOUT_S) as reply:
            for line in reply.iter_lines():
                with self._changed:
                    self.n_events += line.startswith("data:")
                    self.is_done = self.is_done or "transcript.text.done" in line
                    self._changed.notify_all()
                if self._is_left:
                    return

    def until(self, n_events: int) -> None:
        """Wait until so many events have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.n_events >= n_events, TIMEOUT_S)

    def __enter__(self) -> LongFile:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_left = True
        self.join(TIMEOUT_S)


def test_turns_go_before_a_long_file_which_goes_on(nano: Server, speech: Sample) -> None:
    with sessions(nano) as clients, LongFile(nano) as file:
        file.until(1)
        for client in clients:
            client.append(pcm16(speech.data), 1 << 20)
            client.send("input_audio_buffer.commit")
        assert [client.until(".completed")["transcript"] for client in clients] == [speech.text] * N_SESSIONS
        assert not file.is_done
        file.until(file.n_events + 1)


def test_one_session_too_many_is_told_when_to_come_back(nano: Server) -> None:
    with sessions(nano), session(nano.url) as last:
        last.until("session.created")
        with pytest.raises(InvalidStatus) as caught, session(nano.url):
            pass
    assert caught.value.response.status_code == 429
    assert int(caught.value.response.headers["retry-after"]) > 0


UPGRADE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
UPDATE = json.dumps({"type": "session.update", "session": {"type": "transcription"}}).encode()
FRAME = bytes([0x81, 0x80 | len(UPDATE), 0, 0, 0, 0]) + UPDATE  # one text, masked with zeros


def is_ended(connection: socket.socket) -> bool:
    """Ask for more and more answers; tell whether the server ends the connection."""
    left, deadline = b"", time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        left = left or 100 * FRAME
        try:
            left = left[connection.send(left) :]
        except TimeoutError:
            continue  # it reads nothing more until its answers are taken
        except ConnectionError:
            return True
    return False


def test_a_client_that_takes_nothing_is_let_go_and_the_others_are_served(
    nano: Server, speech: Sample
) -> None:
    with socket.socket() as taking_nothing, session(nano.url) as other:
        taking_nothing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        taking_nothing.connect(nano.address)
        taking_nothing.sendall(UPGRADE)
        assert taking_nothing.recv(4_096).startswith(b"HTTP/1.1 101 ")
        taking_nothing.settimeout(0.1)
        assert is_ended(taking_nothing)
        other.update(turn_detection=None)
        other.append(pcm16(speech.data))
        other.send("input_audio_buffer.commit")
        assert other.until(".completed")["transcript"] == speech.text


def test_a_server_that_ends_answers_every_open_turn(
    start_server: StartServer, nano_cache: Path, speech: Sample
) -> None:
    server = start_server(**settings(nano_cache))
    # A turn whose model is still being loaded when the server ends has not begun.
    assert httpx.post(f"{server.url}{URL}", **form(speech.data)).status_code == 200
    with sessions(server) as clients:
        for client in clients:
            client.append(pcm16(speech.data))
            client.send("session.update", session={"type": "transcription"})
        for client in clients:
            client.until("session.updated")  # all of the sound has come in
        server.process.terminate()
        assert [client.until(".completed")["transcript"] for client in clients] == [speech.text] * N_SESSIONS
        for client in clients:
            with pytest.raises(ConnectionClosed):
                client.until("nothing more")
            assert client.socket.close_code == 1001
    assert server.process.wait(TIMEOUT_S) == 0
