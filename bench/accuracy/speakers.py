"""Who speaks when, and who said what: diarization error rate, words with the wrong speaker, cost and memory.

    pip install pyannote.metrics
    python -m bench.accuracy.speakers RECORDINGS                         # the networks of the settings
    python -m bench.accuracy.speakers RECORDINGS --weights FOLDER        # and words, by a model
    python -m bench.accuracy.speakers RECORDINGS --encoder tests/support/voice_encoder/encoder.onnx \
        --segmentation none --threshold 0.64                             # the floor: the encoder of the tests

RECORDINGS is a folder with the files that speaker_truth.json names: turns, or words with their speakers.
Error rates are pyannote.metrics', with collar 0 and overlaps counted. `--hours N` measures cost and memory on
N hours of them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_server.core.config import load_settings
from whisper_server.core.types import (
    SAMPLE_RATE,
    ModelSource,
    TranscribeParams,
    Transcript,
    Turn,
    VoiceOptions,
)
from whisper_server.services.container import Services, open_services
from whisper_server.services.speakers.clustering import SpeakerCount
from whisper_server.services.speakers.loaded import load_networks

TRUTH = Path(__file__).with_name("speaker_truth.json")


def error_rate(found: Sequence[Turn], truth: Sequence[Sequence[Any]], duration_s: float) -> dict[str, float]:
    """Return seconds of pyannote.metrics: total, missed, false alarm, confusion."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    reference, heard = Annotation(), Annotation()
    for number, (start_s, end_s, speaker) in enumerate(truth):
        reference[Segment(start_s, end_s), number] = speaker
    for number, turn in enumerate(found):
        heard[Segment(turn.start_s, turn.end_s), number] = turn.speaker
    metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    parts = metric.compute_components(reference, heard, uem=Timeline([Segment(0, duration_s)]))
    return {name: float(parts[name]) for name in ("total", "missed detection", "false alarm", "confusion")}


def wrong_words(transcript: Transcript, truth: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return how many words heard right have the wrong speaker, by the best naming; and all of them."""
    import jiwer

    said = [(word, speaker) for text, speaker in truth for word in _plain(text)]
    heard = [
        (word, segment.speaker)
        for segment in transcript.segments
        for each in segment.words
        for word in _plain(each.text)
    ]
    aligned = jiwer.process_words(" ".join(w for w, _ in said), " ".join(w for w, _ in heard)).alignments[0]
    pairs = [
        (said[chunk.ref_start_idx + i][1], heard[chunk.hyp_start_idx + i][1])
        for chunk in aligned
        if chunk.type == "equal"
        for i in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    names = sorted({speaker for speaker, _ in pairs})
    ours = sorted({speaker for _, speaker in pairs})
    most = max(len(names), len(ours))
    padded = [*ours, *[""] * (most - len(ours))]
    best = max(
        sum(dict(zip(order, names, strict=False)).get(mine) == theirs for theirs, mine in pairs)
        for order in itertools.permutations(padded)
    )
    return len(pairs) - best, len(pairs)


def _plain(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


async def measured(
    services: Services, path: Path, truth: dict[str, Any], model: Path | None
) -> dict[str, Any]:
    """Return the figures of one recording, with the number of speakers unknown and given."""
    speakers = {each[-1] for each in truth.get("turns") or truth["words"]}
    row: dict[str, Any] = {"file": path.name, "speakers": len(speakers)}
    for name, count in (
        ("unknown", VoiceOptions()),
        ("given", VoiceOptions((), len(speakers), len(speakers))),
    ):
        known = await services.speakers.known((), count)
        stream = await services.pool.run(services.audio.open, path)
        turns = await services.speakers.of(stream, known)
        row[f"{name} speakers"] = len({turn.speaker for turn in turns})
        if "turns" in truth:
            row[name] = error_rate(turns, truth["turns"], stream.position_s)
    if "words" in truth and model is not None:
        params = TranscribeParams(
            ModelSource(model.name, folder=model), language="en", speakers=(), word_timestamps=True
        )
        row["words"] = wrong_words(await services.transcriber.transcribe(path, params), truth["words"])
    return row


def cost(settings: Any, folder: Path, files: Sequence[str], hours: float) -> str:
    """Return processor time per hour of audio, and the memory that the work adds."""
    from whisper_server.services.audio_processor import AudioProcessor

    audio = AudioProcessor(1 << 40, 1e9)
    parts = []
    for file in files:
        with audio.open(folder / file) as stream:
            parts.append(np.concatenate(list(stream.blocks())))
    sound = np.concatenate(parts)
    networks = load_networks(settings)
    diarizer = networks.diarizer(SpeakerCount())
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started_s, done = time.process_time(), 0
    while done < hours * 3600 * SAMPLE_RATE:
        diarizer.add(sound)
        done += len(sound)
    diarizer.catch_up()
    heard_s = time.process_time() - started_s
    turns = diarizer.turns()
    all_s = time.process_time() - started_s
    after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_hour = 3600 * SAMPLE_RATE / done
    return (
        f"{done / SAMPLE_RATE / 3600:.2f} h of sound: {all_s * per_hour:.0f} s of processor time per hour; "
        f"{(all_s - heard_s):.1f} s of it at the end; memory rose from {before_mb:.0f} to {after_mb:.0f} MB; "
        f"{len({turn.speaker for turn in turns})} speakers, {len(turns)} turns"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table, and what they come to together."""
    lines = [
        "| recording | speakers | found | error | missed, false, confused | number given | wrong words |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        words = "" if "words" not in row else f"{row['words'][0]} of {row['words'][1]}"
        shares = "" if "unknown" not in row else ", ".join(f"{each:.1%}" for each in _shares(row["unknown"]))
        lines.append(
            f"| {row['file']} | {row['speakers']} | {row['unknown speakers']} | {_rate([row], 'unknown')} "
            f"| {shares} | {_rate([row], 'given')} | {words} |"
        )
    right = sum(row["speakers"] == row["unknown speakers"] for row in rows)
    rates = _rate(rows, "unknown"), _rate(rows, "given")
    lines.append(f"| together | | {right} of {len(rows)} right | {rates[0]} | | {rates[1]} | |")
    return "\n".join(lines)


def _shares(parts: dict[str, float]) -> list[float]:
    return [parts[name] / parts["total"] for name in ("missed detection", "false alarm", "confusion")]


def _rate(rows: Sequence[dict[str, Any]], name: str) -> str:
    parts = [row[name] for row in rows if name in row]
    total = sum(each["total"] for each in parts)
    return f"{sum(sum(each.values()) - each['total'] for each in parts) / total:.1%}" if total else ""


async def _all(settings: Any, args: argparse.Namespace, truth: dict[str, Any]) -> list[dict[str, Any]]:
    async with open_services(settings) as services:
        return [
            await measured(services, args.recordings / file, each, args.weights)
            for file, each in truth.items()
            if (args.recordings / file).is_file()
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument(
        "--weights", type=lambda name: Path(name).resolve(), help="a Whisper model, for words"
    )
    parser.add_argument("--encoder")
    parser.add_argument("--segmentation")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--hours", type=float, default=0.0, help="measure cost and memory on so much sound")
    args = parser.parse_args()
    given = {
        "speaker_encoder": args.encoder,
        "speaker_segmentation": args.segmentation,
        "speaker_threshold": args.threshold,
    }
    settings = load_settings({name: value for name, value in given.items() if value is not None})
    truth = json.loads(TRUTH.read_text(encoding="utf-8"))
    if args.hours:
        print(
            cost(settings, args.recordings, [f for f in truth if (args.recordings / f).is_file()], args.hours)
        )
    else:
        print(table(asyncio.run(_all(settings, args, truth))))


if __name__ == "__main__":
    main()
