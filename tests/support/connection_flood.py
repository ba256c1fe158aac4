"""Opens connections as fast as they are accepted: `python -m tests.support.connection_flood HOST PORT HEX`.

Sends the bytes on each and leaves the last 200 open, until standard input ends. Says `begun` once 200 are.
"""

from __future__ import annotations

import os
import select
import socket
import sys

OPEN = 200


def main(host: str, port: str, data: str) -> None:
    """Flood."""
    opened: list[socket.socket] = []
    has_begun = False
    while not select.select([0], [], [], 0)[0]:
        try:
            connection = socket.create_connection((host, int(port)), timeout=30)
            opened.append(connection)
            connection.sendall(bytes.fromhex(data))
        except OSError:
            pass
        while len(opened) > OPEN:
            opened.pop(0).close()
        if not has_begun and len(opened) == OPEN:
            has_begun = True
            os.write(1, b"begun\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
