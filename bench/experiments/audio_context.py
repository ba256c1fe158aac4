"""How much silence a checkpoint needs after the sound, and how many beams: errors and processor time.

    python -m bench.experiments.audio_context RECORDINGS MODEL --silence 3 5 8 10 30

RECORDINGS is a folder as bench.accuracy has it, MODEL a folder in Hugging Face format. Counted are the
windows that sound does not fill: recordings of at most 24 s, one by one on one thread, through the guard and
the temperature fallback of the server. A row is one length of silence; 30 s are whole windows. The text may
differ in a word from row to row; a length is good where the errors do not grow. Processor time holds the
language's detection too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from bench.accuracy import recordings, scores
from whisper_server.core.errors import WhisperServerError
from whisper_server.core.types import WINDOW_FRAMES, Decoded, DecodeOptions, VadOptions, Window, WindowJob
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.decoding import segments
from whisper_server.services.decoding.short_context import ContextDecoder, frames_of
from whisper_server.services.decoding.window_decoder import WindowDecoder
from whisper_server.services.engines.base import Engine, EngineSpec, IsWanted
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.speech import vad, windows

LONGEST_S = 24.0
VAD = VadOptions()


@dataclass
class Row:
    """What one length of silence gave."""

    silence_s: float
    beam: int
    engine: Engine
    shows: bool = False
    edits: list[scores.Edits] = field(default_factory=list)
    short: int = 0
    again: int = 0
    processor_s: float = 0.0
    wrong_languages: int = 0
    without_speech: int = 0  # recordings without speech that have a text
    starts_s: dict[str, tuple[str, list[float]]] = field(default_factory=dict)  # file -> text, word starts

    def hear(self, window: Window, language: str | None, *, words: bool) -> Decoded:
        """Decode one window, and count what it costs."""
        job, options = WindowJob(window, language, word_timestamps=words), DecodeOptions(self.beam)
        self.short += frames_of(window, self.silence_s) < WINDOW_FRAMES
        began_s = time.process_time()
        (decoded,) = ContextDecoder(self._decode, self.silence_s).decode([job], options)
        took_s = time.process_time() - began_s
        self.processor_s += took_s
        if self.shows:
            text = self.engine.tokenizer.text(decoded.tokens)
            print(
                f"beam {self.beam}, {self.silence_s:g} s after {window.duration_s:.1f} s: "
                f"{len(decoded.tokens)} tokens, {decoded.avg_logprob:.2f}, {decoded.compression_ratio:.2f}, "
                f"{decoded.temperature:g}, {took_s:.2f} s, again {self.again}: {text}",
                flush=True,
            )
        return decoded

    def _decode(
        self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted, n_frames: int
    ) -> list[Decoded]:
        whole = frames_of(jobs[0].window, self.silence_s) == WINDOW_FRAMES
        self.again += n_frames == WINDOW_FRAMES and not whole
        return WindowDecoder(self.engine).decode(jobs, options, is_wanted, n_frames)

    def line(self, whole: Row | None) -> str:
        """Return the line of the table; word times are against those of whole windows."""
        all_edits = scores.total(self.edits)
        moved = sorted(self._moved(whole)) if whole else []
        times = f"{median(moved):.2f}, {quantiles(moved, n=10)[-1]:.2f}" if len(moved) > 1 else "-"
        cells = (
            f"{self.silence_s:g}",
            self.beam,
            f"{all_edits.percent:.2f} %",
            f"{all_edits.substituted}, {all_edits.deleted}, {all_edits.inserted}",
            self.wrong_languages,
            self.without_speech,
            f"{self.again} of {self.short}",
            f"{self.processor_s:.1f}",
            times,
        )
        return "| " + " | ".join(map(str, cells)) + " |"

    def _moved(self, whole: Row) -> Iterator[float]:
        """Yield by how much the words of equal texts start elsewhere (s)."""
        for file, (text, starts) in self.starts_s.items():
            if file in whole.starts_s and whole.starts_s[file][0] == text:
                yield from (abs(a - b) for a, b in zip(starts, whole.starts_s[file][1], strict=True))


def hear(row: Row, each: recordings.Recording, found: Sequence[Window], *, words: bool) -> None:
    """Count what comes of one recording; the language is detected once, and then given."""
    engine, text, starts = row.engine, "", []
    language = None if engine.tokenizer.is_multilingual else "en"
    for window in found:
        decoded = row.hear(window, language, words=words)
        language = decoded.language
        said = segments.of(window, decoded, engine.tokenizer, VAD.threshold)
        text += "".join(one.text for one in said)
        starts += [word.start_s for one in said for word in one.words]
    if each.transcript:
        row.edits.append(_nearest(each, text))
        row.wrong_languages += bool(each.languages) and language not in each.languages
        row.starts_s[each.file] = text, starts
    else:
        row.without_speech += bool(text.strip())


def _nearest(each: recordings.Recording, text: str) -> scores.Edits:
    heard = scores.units(text, each.language)
    said = [spelled for spelled in (each.transcript, each.also) if spelled]
    counted = [scores.edits(scores.units(spelled, each.language), heard) for spelled in said]
    return min(counted, key=lambda edits: edits.errors)


def windows_of(folder: Path, each: recordings.Recording, n_mels: int) -> list[Window]:
    """Return the windows of a file as the server makes them, none where it cannot be read."""
    try:
        with AudioProcessor(1 << 30, 36_000.0).open(folder / each.file) as stream:
            return [found for found in windows.pack(vad.steps(stream.blocks(), VAD), n_mels) if found]
    except WhisperServerError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--silence", type=float, nargs="+", default=[30.0, 3.0, 5.0, 8.0, 10.0])
    parser.add_argument("--beams", type=int, nargs="+", default=[5])
    parser.add_argument("--words", action="store_true", help="compare word times with those of whole windows")
    parser.add_argument("--shows", action="store_true", help="print every text")
    parser.add_argument("--files", nargs="+", default=[], help="only those whose names have one of these")
    parser.add_argument("--limit", type=int, help="so many recordings, spread over the folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        engine = load_engine(given.model, EngineSpec(threads=1), Path(cache))
        rows = [
            Row(silence_s, beam, engine, given.shows) for silence_s in given.silence for beam in given.beams
        ]
        for each in recordings.chosen(recordings.read(given.recordings), given.files, given.limit):
            is_known = each.languages == ("en",) or engine.tokenizer.is_multilingual or not each.is_speech
            if not each.is_scored or not is_known or (each.seconds or 0) > LONGEST_S:
                continue
            found = windows_of(given.recordings, each, engine.info.n_mels)
            if given.shows:
                print(f"\n{each.file}: {each.transcript}")
            for row in rows:
                hear(row, each, found, words=given.words)
        engine.close()
    whole = next((row for row in rows if row.silence_s * 100 >= WINDOW_FRAMES), None)
    print(
        f"{len(rows[0].edits)} recordings, {scores.total(rows[0].edits).units} units\n\n"
        "| silence, s | beam | wrong | subst., del., ins. | language wrong | text without speech "
        "| decoded again | processor s | words start elsewhere, s: median, 90 % |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        print(row.line(whole if row is not whole else None), flush=True)


if __name__ == "__main__":
    main()
