"""faster-whisper in int8: plain with its defaults, with voice detection, or its batched pipeline."""

from __future__ import annotations

from typing import Any

from listener import arguments, listen


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batched", action="store_true")
    parser.add_argument("--vad", action="store_true")
    args = parser.parse_args()
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model: Any = WhisperModel(args.model, device="cpu", compute_type="int8", cpu_threads=args.threads)
    pipeline = BatchedInferencePipeline(model) if args.batched else model
    options: dict[str, Any] = {"beam_size": args.beam} if args.beam else {}
    if args.vad:
        options["vad_filter"] = True

    def hear(file: str, language: str | None, has_words: bool) -> dict[str, Any]:
        segments, info = pipeline.transcribe(file, language=language, word_timestamps=has_words, **options)
        found = list(segments)
        words = [
            (word.word.strip(), float(word.start), float(word.end)) for s in found for word in s.words or []
        ]
        text = "".join(segment.text for segment in found).strip()
        return {"text": text, "language": info.language, "words": words}

    listen(hear)


if __name__ == "__main__":
    main()
