"""The loop of a library that listens: a line of JSON asks, a line answers. Imports nothing of this project.

Asked: {"file": path, "language": code or null, "words": bool}. Answered: {"text", "language", "words"} with
[word, start_s, end_s] for each word, or {"error"}. Standard output is for answers alone; what a library
prints goes to the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Hear = Callable[[str, "str | None", bool], "dict[str, Any]"]  # path, language, whether with words


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every library takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", help="the weights, in the library's own format")
    parser.add_argument("--beam", type=int, default=0, help="0: the library's default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser


def listen(hear: Hear) -> None:
    """Answer until the input ends; a file that cannot be heard is an answer too."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        print("{}", file=answers, flush=True)  # ready: the model is loaded
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                answer = hear(asked["file"], asked["language"], asked["words"])
            except Exception as error:  # noqa: BLE001 -- whatever a library raises
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)
