"""openai-whisper in float32, the reference: defaults of its command line, `best_of` 5 with a beam among them.

It would decode with an ffmpeg process; PyAV does it here: there may be no ffmpeg binary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from listener import arguments, listen

sys.path.append(str(Path(__file__).parents[2] / "serving" / "peers"))
from wrapper import decoded


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--heads", default="[]", help="JSON: [[layer, head]] that align words with the sound")
    args = parser.parse_args()
    import torch
    import whisper

    torch.set_num_threads(args.threads)
    model = whisper.load_model(args.model, device="cpu")
    if heads := json.loads(args.heads):
        mask = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
        for layer, head in heads:
            mask[layer, head] = True
        model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    options: dict[str, Any] = {"beam_size": args.beam, "best_of": args.beam} if args.beam > 1 else {}

    def hear(file: str, language: str | None, has_words: bool) -> dict[str, Any]:
        samples = decoded(Path(file).read_bytes())
        result = model.transcribe(
            samples, language=language, fp16=False, word_timestamps=has_words, **options
        )
        words = [
            (word["word"].strip(), float(word["start"]), float(word["end"]))
            for segment in result["segments"]
            for word in segment.get("words", [])
        ]
        return {"text": result["text"].strip(), "language": result["language"], "words": words}

    listen(hear)


if __name__ == "__main__":
    main()
