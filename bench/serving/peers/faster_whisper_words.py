"""faster-whisper's word times, with its voice detection; prints JSON: per file [word, start_s, end_s]s."""

from __future__ import annotations

import argparse
import json
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder in CTranslate2 format")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    from faster_whisper import WhisperModel

    model: Any = WhisperModel(args.model, device="cpu", compute_type="int8", cpu_threads=1)
    found: list[list[tuple[str, float, float]]] = []
    for file in args.files:
        segments, _ = model.transcribe(file, word_timestamps=True, vad_filter=True)
        found.append([(word.word.strip(), word.start, word.end) for s in segments for word in s.words])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
