"""faster-whisper behind FastAPI: plain, or with its batched pipeline; it decodes with its own PyAV.

The library may be called from several threads at once, so there is no lock. `--workers` models share the
cores among them: what its documentation advises for many clients. Text is not carried from window to
window: the nano model cannot follow it, and would have long files decoded again and again.
"""

from __future__ import annotations

import io
from typing import Any

from wrapper import arguments, serve


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batched", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--vad", action="store_true", help="voice detection, as the batched pipeline has it")
    args = parser.parse_args()
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model: Any = WhisperModel(
        args.model,
        device="cpu",
        compute_type="int8",
        cpu_threads=max(1, args.threads // args.workers),
        num_workers=args.workers,
    )
    pipeline = BatchedInferencePipeline(model) if args.batched else model
    options: dict[str, Any] = {"beam_size": args.beam} if args.beam else {}
    if not args.batched:
        options["condition_on_previous_text"] = False
    if args.vad:
        options["vad_filter"] = True

    def transcribe(data: bytes, language: str | None) -> str:
        segments, _ = pipeline.transcribe(io.BytesIO(data), language=language, **options)
        return "".join(segment.text for segment in segments).strip()

    serve(transcribe, args.port)


if __name__ == "__main__":
    main()
