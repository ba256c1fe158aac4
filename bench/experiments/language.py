"""How often the language of a file, and of each of its windows, is right: real recordings, real weights.

    python -m bench.experiments.language RECORDINGS MODEL SCORES

RECORDINGS is a folder with an `index.json`: a list of objects with `file` and `language`, a code, null where
nobody speaks, `en+de` where both are spoken. Those of one language are counted as they are, in pieces of some
seconds, and joined into files of two or three languages. MODEL is a multilingual model. What it says of each
window is kept in the file SCORES (JSON), so that another run, with other thresholds, takes no time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_server.core.types import MIN_VOICE_S, Window
from whisper_server.services.decoding import belief
from whisper_server.services.decoding.language import FileLanguage, Heard
from whisper_server.services.speech import vad, windows

if TYPE_CHECKING:
    from whisper_server.services.loaded_models.loader import WhisperModel

RATE = 16_000
N_MELS = 80
NOISE_S = 20.0
PIECES_S = (2.0, 3.0, 5.0)  # the first seconds of each recording that is not English

PAUSE_S = 0.8
PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
VOICES_S = (0.0, 1.0, 2.0, 3.0)
JOINED = ("en de", "de en", "en es", "ja fr", "en de en")
JOINED_S = 40.0  # of each language, at most


@dataclass(frozen=True, slots=True)
class Recording:
    """One file, and what is spoken up to which second."""

    name: str
    samples: Any  # float32 [n]
    spoken: tuple[tuple[str | None, float], ...]  # code, None for nothing; end in seconds

    def language_of(self, window: Window) -> str | None:
        """Return the code of what is spoken in most of a window."""
        seconds: dict[str | None, float] = {}
        start_s = 0.0
        for code, end_s in self.spoken:
            for place in window.places:
                left, right = (
                    max(start_s, place.file_start_s),
                    min(end_s, place.file_start_s + place.duration_s),
                )
                seconds[code] = seconds.get(code, 0.0) + max(0.0, right - left)
            start_s = end_s
        return max(seconds, key=seconds.__getitem__)


@dataclass
class Ears:
    """A model that says what language windows are in, and remembers it."""

    model: WhisperModel
    path: Path
    known: dict[str, Any]
    encode_s: list[float] = field(default_factory=list)
    detect_s: list[float] = field(default_factory=list)

    def hear(self, name: str, window: Window) -> Heard:
        """Return what a window of a recording says."""
        key = f"{name} {window.start_s:.2f} {window.duration_s:.2f}"
        if key not in self.known:
            began = time.process_time()
            encoded = self.model.engine.encode(window.mel[None])
            encoded_at = time.process_time()
            self.known[key] = self.model.engine.detect_language(encoded)[0]
            self.encode_s.append(encoded_at - began)
            self.detect_s.append(time.process_time() - encoded_at)
            self.path.write_text(json.dumps(self.known), encoding="utf-8")
        return Heard(self.known[key], belief.spoken_s(window))


def read(folder: Path) -> list[Recording]:
    """Return the recordings that can be read and have one language or none, and synthetic noises."""
    from tests.support.audio_files import noises
    from whisper_server.core.errors import WhisperServerError
    from whisper_server.services.audio_processor import AudioProcessor

    audio, found = AudioProcessor(1 << 30, 36_000.0), []
    for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        if "+" in (entry["language"] or ""):
            continue
        try:
            with audio.open(folder / entry["file"]) as stream:
                samples = np.concatenate(list(stream.blocks()))
        except WhisperServerError:
            continue
        found.append(Recording(entry["file"], samples, ((entry["language"], len(samples) / RATE),)))
    return found + [Recording(name, each, ((None, NOISE_S),)) for name, each in noises(NOISE_S).items()]


def joined(recordings: Sequence[Recording]) -> list[Recording]:
    """Return files of several languages, each made of the longest recordings of one."""
    of_code: dict[str | None, list[Recording]] = {}
    for each in sorted(recordings, key=lambda one: -len(one.samples)):
        of_code.setdefault(each.spoken[0][0], []).append(each)
    made = []
    for codes in JOINED:
        parts, spoken, taken = [], [], {}
        for code in codes.split():
            taken[code] = taken.get(code, 0) + 1
            parts += [of_code[code][taken[code] - 1].samples[: int(JOINED_S * RATE)]]
            parts += [np.zeros(int(PAUSE_S * RATE), np.float32)]
            spoken.append((code, sum(map(len, parts)) / RATE))
        made.append(Recording(f"joined {codes}", np.concatenate(parts), tuple(spoken)))
    return made


def windows_of(recording: Recording) -> list[Window]:
    """Return the windows of a recording as the server makes them."""
    found = windows.pack(vad.steps(iter([recording.samples])), N_MELS)
    return [window for window in found if window is not None]


def pieces_of(recording: Recording, window: Window) -> Iterator[Window]:
    """Yield short windows of a recording's first one; English is what is said where little is heard."""
    for seconds in PIECES_S:
        if window.duration_s > seconds and recording.spoken[0][0] != "en":
            yield windows.part(window, 0.0, seconds)


def by_first(heard: Sequence[Heard]) -> list[str]:
    """Return the languages of a file's windows as they were before: of the first one with a voice."""
    first = next((each.best for each in heard if each.voice_s >= MIN_VOICE_S), None)
    return [first or each.best for each in heard]


def each_by_itself(heard: Sequence[Heard]) -> list[str]:
    """Return what each window says itself."""
    return [each.best for each in heard]


def by_several(heard: Sequence[Heard], *, switches: bool = True) -> list[str]:
    """Return the languages as the server decides on them."""
    course = FileLanguage(switches=switches)
    found: list[str] = []
    held: list[Heard] = []
    for each in heard:
        held.append(each)
        if course.hear(each):
            found += [course.of(one) for one in held]
            held = []
    course.decide()
    return found + [course.of(one) for one in held]


def decoded_again(heard: Sequence[Heard]) -> int:
    """Return how many windows are decoded twice: before the file's language is known, or after a switch."""
    course = FileLanguage()
    main = None
    n_again, first = 0, []
    for each, code in zip(heard, by_several(heard), strict=True):
        first.append(each.choice(main))
        course.hear(each)
        main = course.main
        n_again += first[-1] != code
    return n_again


def sure_table(pieces: Iterable[tuple[str, str | None, Heard]]) -> None:
    """Print, for each pair of thresholds, how many pieces of speech are sure, rightly and wrongly."""
    spoken = [(code, heard) for _, code, heard in pieces if code]
    print(f"{len(spoken)} pieces with a language: sure and right, sure and wrong\n")
    print("| probability | " + " | ".join(f"voice >= {voice_s:.0f} s" for voice_s in VOICES_S) + " |")
    print("| --- |" + " --- |" * len(VOICES_S))
    for probability in PROBABILITIES:
        cells = []
        for voice_s in VOICES_S:
            sure = [
                code == heard.best
                for code, heard in spoken
                if heard.voice_s >= voice_s and heard.scores[heard.best] >= probability
            ]
            cells.append(f"{sum(sure)}, {len(sure) - sum(sure)}")
        print(f"| {probability} | " + " | ".join(cells) + " |")


def file_table(kind: str, files: Sequence[tuple[Recording, list[Window], list[Heard]]]) -> None:
    """Print how many windows with a voice have the right language, by each rule."""
    rules: dict[str, Callable[[Sequence[Heard]], list[str]]] = {
        "of the first window": by_first,
        "each by itself": each_by_itself,
        "several, no switching": lambda heard: by_several(heard, switches=False),
        "several, switching": by_several,
    }
    n_windows = sum(len(found) for _, found, _ in files)
    for name, rule in rules.items():
        n_files_wrong, n_wrong, wrong_s = 0, 0, 0.0
        for recording, found, heard in files:
            codes = rule(heard)
            wrong = [
                each.voice_s
                for window, code, each in zip(found, codes, heard, strict=True)
                if each.voice_s >= MIN_VOICE_S and code != recording.language_of(window)
            ]
            n_files_wrong += bool(wrong)
            n_wrong += len(wrong)
            wrong_s += sum(wrong)
        again = sum(decoded_again(heard) for *_, heard in files) if rule is by_several else 0
        print(
            f"| {kind} | {name} | {len(files)} | {n_windows} | {n_files_wrong} | {n_wrong} | {wrong_s:.0f} "
            f"| {again} |"
        )


def compare(folder: Path, model: WhisperModel, path: Path) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ears = Ears(model, path, known)
    recordings = read(folder)
    spoken = [each for each in recordings if each.spoken[0][0]]
    silent = [each for each in recordings if not each.spoken[0][0]]
    heard: dict[str, list[tuple[Recording, list[Window], list[Heard]]]] = {}
    for kind, those in (("joined", joined(recordings)), ("speech", spoken), ("no speech", silent)):
        for each in those:
            found = windows_of(each)
            heard.setdefault(kind, []).append((each, found, [ears.hear(each.name, one) for one in found]))
    pieces = [
        (each.name, each.spoken[0][0], ears.hear(each.name, piece))
        for each, found, _ in heard["speech"] + heard["no speech"]
        for piece in (pieces_of(each, found[0]) if found else ())
    ]
    sure_table(pieces)
    print("\nSure pieces and windows without the language that they say:\n")
    for name, code, each in pieces + [
        (one.name, one.language_of(window), what)
        for kind in ("speech", "no speech")
        for one, found, whats in heard[kind]
        for window, what in zip(found, whats, strict=True)
    ]:
        if each.is_sure and each.best != code:
            print(f"- {name}: {each.best} {each.scores[each.best]:.2f}, voice {each.voice_s:.1f} s")
    print("\n| files | language | files | windows | files wrong | windows wrong | seconds | decoded again |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    file_table("one language", heard["speech"])
    file_table("joined", heard["joined"])
    print("\nJoined: what windows are decoded in (what most of them is)\n")
    for recording, found, whats in heard["joined"]:
        codes = by_several(whats)
        truth = [recording.language_of(window) for window in found]
        cells = [f"{code} ({true})" for code, true in zip(codes, truth, strict=True)]
        print(f"- {recording.name}: " + ", ".join(cells))
    if ears.encode_s:
        print(
            f"\n{len(ears.encode_s)} windows: {np.mean(ears.encode_s):.3f} processor s to encode one, "
            f"{np.mean(ears.detect_s):.3f} to detect its language"
        )


def main() -> None:
    from whisper_server.core.config import load_settings
    from whisper_server.services.loaded_models.loader import ModelLoader
    from whisper_server.services.model_files.catalog import Catalog

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("scores", type=Path)
    arguments = parser.parse_args()
    settings = load_settings({"model": str(arguments.model.resolve()), "threads": 2})
    catalog = Catalog(settings)
    model = ModelLoader(settings)(catalog.resolve(catalog.default))
    try:
        compare(arguments.recordings, model, arguments.scores)
    finally:
        model.close()


if __name__ == "__main__":
    main()
