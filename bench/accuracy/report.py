"""What was heard -> tables in Markdown, and figures per file; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from bench.accuracy import scores
from bench.accuracy.listeners import Heard
from bench.accuracy.recordings import Recording
from bench.accuracy.scores import Edits
from bench.figures import percentile, table

ASKED = ("json", "words", "again")  # the text; verbose_json with times of words; the first once more


@dataclass(frozen=True, slots=True)
class Result:
    """One file as one server heard it."""

    recording: Recording
    heard: Mapping[str, Heard]  # by how it was asked for: some of `ASKED`

    @property
    def text(self) -> str:
        return self.first.text

    @property
    def first(self) -> Heard:
        return next((self.heard[asked] for asked in ASKED if asked in self.heard), Heard())

    @property
    def edits(self) -> Edits | None:
        """Return the errors; None where it is not known what is said, or nobody speaks."""
        if not self.recording.transcript:
            return None
        language = self.recording.language
        heard = scores.units(self.text, language)
        spellings = [self.recording.transcript, *([self.recording.also] if self.recording.also else [])]
        found = [scores.edits(scores.units(spelling, language), heard) for spelling in spellings]
        return min(found, key=lambda edits: edits.errors)

    @property
    def invented(self) -> int:
        """Return the words that were heard where nobody speaks."""
        return 0 if self.recording.is_speech else len(scores.units(self.text, None))

    @property
    def language(self) -> str | None:
        return next((heard.language for heard in self.heard.values() if heard.language), None)

    @property
    def is_language_right(self) -> bool | None:
        """Return None where there is no language, or none was told; of two, either is right."""
        if not (self.recording.languages and self.recording.is_speech and self.language):
            return None
        return self.language in self.recording.languages

    def differs(self, asked: str) -> bool | None:
        """Return whether the text is another one when it is asked for in this way; None if it was not."""
        if not ({"json", asked} <= self.heard.keys()):
            return None
        return self.heard["json"].text != self.heard[asked].text

    @property
    def time_errors_s(self) -> list[tuple[float, float]]:
        """Return how much later each word starts and ends than in truth, where that is known."""
        recording = self.recording
        if not (recording.word_times_s and recording.transcript and "words" in self.heard):
            return []
        words = self.heard["words"].words
        return scores.time_errors_s(recording.transcript, recording.word_times_s, words, recording.language)

    def as_json(self) -> dict[str, Any]:
        """Return all of it for the file of results."""
        return {
            "file": self.recording.file,
            "language": self.recording.language,
            "kind": self.recording.kind,
            "edits": asdict(self.edits) if self.edits else None,
            "invented": self.invented,
            "heard_language": self.language,
            "is_language_right": self.is_language_right,
            "differs_again": self.differs("again"),
            "differs_in_verbose_json": self.differs("words"),
            "time_errors_s": self.time_errors_s,
            "heard": {asked: asdict(heard) for asked, heard in self.heard.items()},
        }


Runs: TypeAlias = Mapping[str, Sequence[Result]]  # by server


def heard_by_all(runs: Runs) -> dict[str, list[Result]]:
    """Return the results of the recordings that every server has answered: others cannot be compared."""
    files = [{result.recording.file for result in results if result.heard} for results in runs.values()]
    common = set.intersection(*files)
    return {name: [r for r in results if r.recording.file in common] for name, results in runs.items()}


def report(runs: Runs) -> str:
    """Return every table."""
    parts = [
        ("In short", _summary(runs)),
        ("By language", _grouped(runs, lambda recording: recording.language or "-")),
        ("By kind", _grouped(runs, lambda recording: recording.kind)),
        ("Words where nobody speaks", _invented(runs)),
        ("Languages taken for others", _languages(runs)),
        ("Word times", _word_times(runs)),
        ("Not heard at all", _failures(runs)),
    ]
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts if text)


def _summary(runs: Runs) -> str:
    rows = []
    for name, results in runs.items():
        english = _total(results, lambda language: language == "en")
        others = _total(results, lambda language: language != "en")
        quiet = [result for result in results if not result.recording.is_speech]
        right = [result.is_language_right for result in results]
        rows.append(
            [
                name,
                *_shown(english),
                *_shown(others),
                f"{sum(r.invented > 0 for r in quiet)} of {len(quiet)} ({sum(r.invented for r in quiet)})",
                _share(right, counted=False),
                _share([result.differs("again") for result in results], counted=True),
                _share([result.differs("words") for result in results], counted=True),
                f"{sum(result.first.wall_s for result in results):.0f}",
                f"{sum(result.first.cpu_s for result in results):.0f}",
            ]
        )
    header = ["server", "English: units, wrong", "subst.", "del.", "ins."]
    header += ["others: units, wrong", "subst.", "del.", "ins.", "text where nobody speaks: files (words)"]
    header += [
        "language wrong",
        "other text when asked again",
        "other text in verbose_json",
        "s",
        "processor s",
    ]
    return table(header, rows)


def _total(results: Sequence[Result], wanted: Callable[[str | None], bool]) -> Edits:
    return scores.total(r.edits for r in results if r.edits and wanted(r.recording.language))


def _shown(edits: Edits) -> list[str]:
    if not edits.units:
        return ["-"] * 4
    wrong = f"{edits.units}, {edits.percent:.2f} %"
    return [wrong, str(edits.substituted), str(edits.deleted), str(edits.inserted)]


def _share(flags: Iterable[bool | None], *, counted: bool) -> str:
    """Return how many are as counted, of those that are known."""
    known = [flag for flag in flags if flag is not None]
    return f"{known.count(counted)} of {len(known)}" if known else "-"


def _grouped(runs: Runs, group: Callable[[Recording], str]) -> str:
    """Return a row for each group: the errors of every server, and how they came about."""
    rows = []
    groups = {group(r.recording) for results in runs.values() for r in results if r.edits}
    for name in sorted(groups):
        found = [
            [r.edits for r in results if r.edits and group(r.recording) == name] for results in runs.values()
        ]
        totals = [scores.total(edits) for edits in found]
        shown = [f"{t.percent:.1f} % ({t.substituted}, {t.deleted}, {t.inserted})" for t in totals]
        rows.append([name, str(len(found[0])), str(totals[0].units), *shown])
    header = ["", "files", "units", *(f"{server}: wrong (subst., del., ins.)" for server in runs)]
    return table(header, rows) if rows else ""


def _invented(runs: Runs) -> str:
    return _by_file(runs, lambda r: not r.recording.is_speech, lambda r: str(r.invented), "0")


def _languages(runs: Runs) -> str:
    return _by_file(
        runs,
        lambda r: r.is_language_right is not None,
        lambda r: "right" if r.is_language_right else f"{r.language}, not {r.recording.language}",
        "right",
    )


def _failures(runs: Runs) -> str:
    return _by_file(runs, lambda _: True, lambda r: r.first.error[:60].replace("|", "/") or "heard", "heard")


def _by_file(runs: Runs, counts: Callable[[Result], bool], shown: Callable[[Result], str], usual: str) -> str:
    """Return a table of the files that some server heard otherwise than usual; empty if there is none."""
    found: dict[str, dict[str, str]] = {}
    for server, results in runs.items():
        for result in filter(counts, results):
            found.setdefault(result.recording.file, {})[server] = shown(result)
    rows = [
        [file, *(by_server.get(server, "-") for server in runs)]
        for file, by_server in found.items()
        if set(by_server.values()) != {usual}
    ]
    return table(["file", *runs], rows) if rows else ""


def _word_times(runs: Runs) -> str:
    rows = []
    for server, results in runs.items():
        timed = [result for result in results if "words" in result.heard]
        if not timed:
            continue
        errors = [pair for result in timed for pair in result.time_errors_s]
        known = sum(len(result.recording.word_times_s) for result in timed)
        words = [(r.heard["words"].words, r.recording.seconds) for r in timed]
        misplaced = sum(scores.misplaced(heard, seconds) for heard, seconds in words)
        sides = [_spread([abs(pair[side]) for pair in errors]) for side in (0, 1)]
        of = sum(len(heard) for heard, _ in words)
        rows.append([server, f"{len(errors)} of {known}", *sides, f"{misplaced} of {of}"])
    header = ["server", "words with a known time, heard right"]
    header += ["start, s off: median, 90 %, most", "end, s off", "words out of order or past the end"]
    return table(header, rows) if rows else ""


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    shown = (statistics.median(values), percentile(values, 90), max(values))
    return ", ".join("-" if math.isnan(value) else f"{value:.2f}" for value in shown)
