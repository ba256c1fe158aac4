"""openai-whisper behind FastAPI, float32 as it runs on a CPU.

Its decoder hangs hooks on the model while it works, so one request runs at a time. It would decode with an
ffmpeg process; PyAV does it here, which costs less. Text is not carried from window to window: the nano model
cannot follow it, and would have long files decoded again and again.
"""

from __future__ import annotations

import threading
from typing import Any

from wrapper import arguments, decoded, serve


def main() -> None:
    args = arguments(__doc__).parse_args()
    import torch
    import whisper

    torch.set_num_threads(args.threads)
    model = whisper.load_model(args.model, device="cpu")
    options: dict[str, Any] = {"condition_on_previous_text": False}
    if args.beam > 1:
        options["beam_size"] = args.beam
    lock = threading.Lock()

    def transcribe(data: bytes, language: str | None) -> str:
        samples = decoded(data)
        with lock:
            result = model.transcribe(samples, language=language, fp16=False, **options)
        return str(result["text"]).strip()

    serve(transcribe, args.port)


if __name__ == "__main__":
    main()
