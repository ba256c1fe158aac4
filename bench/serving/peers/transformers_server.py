"""The transformers pipeline behind FastAPI, float32 as it runs on a CPU; one request at a time.

Files above 30 s are read window after window (`return_timestamps`), as the model's card has it; PyAV
decodes, because the pipeline would start an ffmpeg process.
"""

from __future__ import annotations

import threading
from typing import Any

from wrapper import SAMPLE_RATE, arguments, decoded, serve


def main() -> None:
    args = arguments(__doc__).parse_args()
    import torch
    from transformers import pipeline

    torch.set_num_threads(args.threads)
    recognise: Any = pipeline(
        "automatic-speech-recognition", model=args.model, device="cpu", dtype=torch.float32
    )
    lock = threading.Lock()

    def transcribe(data: bytes, language: str | None) -> str:
        samples = decoded(data)
        options: dict[str, Any] = {"task": "transcribe"}
        if language:
            options["language"] = language
        if args.beam:
            options["num_beams"] = args.beam
        is_long = len(samples) > 30 * SAMPLE_RATE
        with lock:
            result = recognise(
                {"raw": samples, "sampling_rate": SAMPLE_RATE},
                generate_kwargs=options,
                return_timestamps=is_long,
            )
        return str(result["text"]).strip()

    serve(transcribe, args.port)


if __name__ == "__main__":
    main()
