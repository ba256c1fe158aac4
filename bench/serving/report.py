"""Visits -> the tables of results-*.md: medians of the runs, and how many times ahead ours is; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import Spread, better_by, table
from bench.serving.visit import Visit, pooled


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a table."""

    title: str
    figure: str
    digits: int = 2
    higher_is_better: bool = False


SINGLE = (
    Column("5 s clip, s", "short clip, s"),
    Column("30 s clip, s", "window clip, s"),
    Column("long file, times real time", "long file, times real time", 1, higher_is_better=True),
)
START = (
    Column("start to /health, s", "start to /health, s"),
    Column("start to first transcript, s", "start to first transcript, s"),
    Column("memory at /health, MB", "memory at /health, MB", 0),
    Column("with one model, MB", "memory with one model, MB", 0),
    Column("at saturation, MB", "clients, memory, MB", 0),
)
CLIENTS = (Column("requests/s", "clients, requests/s", higher_is_better=True),)


def spread(visits: Sequence[Visit], figure: str) -> Spread:
    """Summarise one figure over the visits."""
    return Spread.of([visit.figures[figure] for visit in visits if figure in visit.figures])


def compared(by_server: dict[str, list[Visit]], ours: str, columns: Sequence[Column]) -> str:
    """Return a table with a row for each server and, beside each figure, how far ahead ours is."""
    shown = [c for c in columns if any(c.figure in v.figures for vs in by_server.values() for v in vs)]
    header = ["median (min - max)"]
    for column in shown:
        header += [column.title, "ours ahead"]
    rows = []
    for server, visits in by_server.items():
        row = [server]
        for column in shown:
            theirs = spread(visits, column.figure)
            row += [theirs.shown(column.digits), _ahead(by_server, ours, server, column)]
        rows.append(row)
    return table(header, rows) if shown else ""


def _ahead(by_server: dict[str, list[Visit]], ours: str, server: str, column: Column) -> str:
    if server == ours or ours not in by_server:
        return ""
    mine, theirs = (spread(by_server[name], column.figure).median for name in (ours, server))
    times = better_by(mine, theirs, higher_is_better=column.higher_is_better)
    return "-" if times != times else f"{times:.2f} x"  # noqa: PLR0124  not a number


def loops(by_server: dict[str, list[Visit]], key: str) -> str:
    """Return the table of one load: rates, and percentiles over the requests of all runs."""
    header = ["server", "offered/s", "answered/s", "p50 s", "p95 s", "p99 s", "refused", "given up"]
    header += ["/health p50 ms", "p99 ms", "requests", "wrong words"]
    rows = []
    for server, visits in by_server.items():
        if not any(key in visit.samples for visit in visits):
            continue
        is_open = key.startswith("open")
        answered = f"{key}, {'answered/s' if is_open else 'requests/s'}"
        row = [server, spread(visits, f"{key}, offered/s").shown(2) if is_open else "as answered"]
        row.append(spread(visits, answered).shown(2))
        row += [f"{pooled(visits, key, percent):.2f}" for percent in (50, 95, 99)]
        for what in ("refused %", "given up %"):
            row.append(f"{spread(visits, f'{key}, {what}').median:.0f} %" if is_open else "0 %")
        row += [f"{1000 * pooled(visits, f'{key}, /health', percent):.0f}" for percent in (50, 99)]
        row.append(str(sum(len(visit.samples.get(key, [])) for visit in visits)))
        row.append(f"{spread(visits, f'{key}, wrong words %').median:.1f} %")
        rows.append(row)
    return table(header, rows) if rows else ""


def mistakes(by_server: dict[str, list[Visit]]) -> str:
    """Return which clips each server got wrong, in any run."""
    rows = []
    for server, visits in by_server.items():
        clips = sorted({clip for visit in visits for clip in visit.wrong})
        parts = [key for key in ("short", "window", "long", "clients") if key in visits[0].samples]
        rates = [f"{key} {spread(visits, f'{key}, wrong words %').median:.1f} %" for key in parts]
        rows.append([server, ", ".join(rates), ", ".join(clips) or "none"])
    return table(["server", "wrong words, median of runs", "clips with a wrong word"], rows)


def report(by_server: dict[str, list[Visit]], ours: str, rates: Sequence[float]) -> str:
    """Return all tables of one size."""
    parts = [
        ("Start and memory", compared(by_server, ours, START)),
        ("One request", compared(by_server, ours, SINGLE)),
        ("16 clients, closed loop", compared(by_server, ours, CLIENTS)),
        ("", loops(by_server, "clients")),
        *(
            (f"Open loop at {rate:g} times the capacity", loops(by_server, f"open {rate:g}"))
            for rate in rates
        ),
        ("What was heard", mistakes(by_server)),
    ]
    return "\n\n".join(f"#### {title}\n\n{text}" if title else text for title, text in parts if text)
