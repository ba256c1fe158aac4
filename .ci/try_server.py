"""Start a server, transcribe a sample with it, end it: `try_server.py COMMAND...`, in the repository's root.

The command is a shell's; with `--interrupt` it is ended as by Ctrl-C, else by SIGTERM. It must listen on
port 0, which the environment asks for, say so in one line on stderr, and exit with 0.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

LIMIT_S = 900.0  # for installing, too
SAMPLES = Path("models/nano-whisper/samples")
SAMPLE = "en-plain-005.flac"


def expected() -> str:
    """Return the words of the sample."""
    clips = json.loads((SAMPLES / "clips.json").read_text(encoding="utf-8"))
    return next(str(clip["text"]) for clip in clips if clip["file"] == SAMPLE)


def transcribed(url: str) -> str:
    """Post the sample as base64 JSON; return the text."""
    audio = base64.b64encode((SAMPLES / SAMPLE).read_bytes()).decode()
    body = json.dumps({"audio": audio, "model": "nano-whisper"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/audio/transcriptions", body, headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return str(json.load(reply)["text"])


def main() -> int:
    arguments = sys.argv[1:]
    end = signal.SIGINT if arguments[0] == "--interrupt" else signal.SIGTERM
    command = arguments[-1]
    # A shell's background job ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "WHISPER_SERVER_PORT": "0", "WHISPER_CACHE_DIR": cache}
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        try:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stderr.write(line)
                if found := re.search(r"listening on (http://\S+)", line):
                    break
            else:
                return process.wait() or 1
            said = transcribed(found[1])
            os.killpg(process.pid, end)
            sys.stderr.write(process.stderr.read())
            status = process.wait()
        finally:
            deadline.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    print(f"transcribed {said!r}; exit status {status}")
    return 0 if said == expected() and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
