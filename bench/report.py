"""What was measured, as a table for people, as JSON for programs and as Markdown for the record."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

REFERENCE = "reference"

GOALS = {
    "ADD": {"native": 0.35, "agent": 1.1, "alone": 4.0},
    "DEL": {"native": 0.40, "agent": 1.5, "alone": 6.0},
    "loopback ADD": {"native": 1.0},
    "VERSION": {"native": 1.0},
    "burst ADD, a pod": {"native": 0.40, "agent": 1.5, "alone": 6.0},
    "burst DEL, a pod": {"native": 0.40, "agent": 1.5, "alone": 6.0},
}
"""By operation and contestant: the greatest ratio to the reference that is acceptable.

Where a Python process starts for each call, loopback and VERSION have none: a bare start of the interpreter
takes three times what the reference needs in all.
"""


@dataclass(frozen=True)
class Figures:
    """One operation of one contestant, in milliseconds; a burst counts by the pod."""

    median: float
    least: float
    quartiles: tuple[float, float]
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Figures:
        values = sorted(1000 * value for value in seconds)
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        return cls(statistics.median(values), values[0], (low, high), len(values))


@dataclass
class Measurements:
    """Seconds by operation and contestant, in the order in which they came up first."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, operation: str, contestant: str, seconds: float) -> None:
        self.seconds.setdefault(operation, {}).setdefault(contestant, []).append(seconds)

    def rows(self) -> list[Row]:
        rows = []
        for operation, by_contestant in self.seconds.items():
            base = Figures.of(by_contestant[REFERENCE]) if REFERENCE in by_contestant else None
            for contestant, seconds in by_contestant.items():
                figures = Figures.of(seconds)
                ratio = figures.median / base.median if base else None
                rows.append(Row(operation, contestant, figures, ratio))
        return rows


@dataclass(frozen=True)
class Row:
    """One line of the table; `ratio` is that of medians, None where the reference was not measured."""

    operation: str
    contestant: str
    figures: Figures
    ratio: float | None

    @property
    def goal(self) -> float | None:
        return GOALS.get(self.operation, {}).get(self.contestant)

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.ratio is not None and self.ratio > self.goal

    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.goal is None or self.ratio is None else (" missed" if self.missed else " met")
        return (
            self.operation,
            self.contestant,
            f"{self.figures.median:.1f}",
            f"{self.figures.least:.1f}",
            "–" if self.ratio is None else f"{self.ratio:.2f}",
            "–" if self.goal is None else f"≤ {self.goal:g}{verdict}",
        )


HEADINGS = ("operation", "executables", "median ms", "min ms", "ratio", "goal")


def table(rows: Sequence[Row], facts: Mapping[str, object]) -> str:
    """Columns padded to their widest cell, numbers to the right; the facts below."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = []
    for number, line in enumerate(lines):
        if number and line[0] != lines[number - 1][0]:
            text.append("")
        cells = (
            cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join(cells).rstrip())
    return "\n".join([*text, "", *(f"{name}: {value}" for name, value in facts.items())])


def markdown(rows: Sequence[Row], facts: Mapping[str, object]) -> str:
    """The page that `--write` leaves beside this file."""
    lines = [
        "# Results",
        "",
        "Written by `bench/run.py --write`; [README.md](README.md) says how to read it.",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", f"| {' | '.join(HEADINGS)} |", "| --- | --- | ---: | ---: | ---: | --- |"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], facts: Mapping[str, object]) -> dict[str, object]:
    """The same for programs; milliseconds throughout."""
    return {
        "facts": dict(facts),
        "rows": [
            {
                "operation": row.operation,
                "executables": row.contestant,
                "medianMs": round(row.figures.median, 3),
                "minMs": round(row.figures.least, 3),
                "quartilesMs": [round(value, 3) for value in row.figures.quartiles],
                "count": row.figures.count,
                "ratio": None if row.ratio is None else round(row.ratio, 4),
                "goal": row.goal,
            }
            for row in rows
        ],
    }


def machine_facts(reference: Path) -> dict[str, object]:
    """What a reader must know to compare figures: date, kernel, processors, versions, load."""
    from importlib.metadata import version

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "processors": _processors(),
        "python": platform.python_version(),
        "pycni": version("pycni"),
        "reference": f"{reference} ({_reference_version(reference)})",
        "load before": Path("/proc/loadavg").read_text().split()[0],
    }


def _processors() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0]}" if models else platform.machine()


def _reference_version(reference: Path) -> str:
    """The plugin's own words, which name a version only if its builder put one in."""
    told = subprocess.run([reference / "bridge"], env={}, capture_output=True, text=True, check=False).stderr
    first = told.strip().splitlines()[0] if told.strip() else "version unknown"
    if reference != Path("/usr/lib/cni") or shutil.which("dpkg-query") is None:
        return first
    query = ["dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"]
    package = subprocess.run(query, capture_output=True, text=True, check=False)
    return f"{first}, Debian {package.stdout}" if package.returncode == 0 else first
