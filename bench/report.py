"""What was measured, as a table for people, as JSON for programs and as Markdown for the record."""

from __future__ import annotations

import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from goals import GOALS, Goal, compared_with


@dataclass(frozen=True)
class Figures:
    """One operation of one contestant, in milliseconds or MiB; a burst counts by the pod."""

    median: float
    least: float
    quartiles: tuple[float, float]
    count: int
    unit: str

    @classmethod
    def of(cls, numbers: Sequence[float], unit: str) -> Figures:
        values = sorted(numbers)
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        return cls(statistics.median(values), values[0], (low, high), len(values), unit)


@dataclass
class Measurements:
    """Milliseconds or MiB by operation and contestant, in the order in which they came up first."""

    numbers: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def time(self, operation: str, contestant: str, seconds: float) -> None:
        self._add(operation, contestant, 1000 * seconds, "ms")

    def memory(self, operation: str, contestant: str, mebibytes: float) -> None:
        self._add(operation, contestant, mebibytes, "MiB")

    def _add(self, operation: str, contestant: str, number: float, unit: str) -> None:
        self.numbers.setdefault(operation, {}).setdefault(contestant, []).append(number)
        self.units[operation] = unit

    def rows(self) -> list[Row]:
        figures = {
            (operation, contestant): Figures.of(numbers, self.units[operation])
            for operation, by_contestant in self.numbers.items()
            for contestant, numbers in by_contestant.items()
        }
        rows = []
        for (operation, contestant), found in figures.items():
            base = figures.get(compared_with(operation, contestant))
            rows.append(Row(operation, contestant, found, found.median / base.median if base else None))
        return rows


@dataclass(frozen=True)
class Row:
    """One line of the table; `ratio` is that of medians, None where there is nothing to compare with."""

    operation: str
    contestant: str
    figures: Figures
    ratio: float | None

    @property
    def goal(self) -> Goal:
        return GOALS.get(self.operation, {}).get(self.contestant, Goal())

    @property
    def missed(self) -> bool:
        goal = self.goal
        return (
            _over(self.ratio, goal.ratio)
            or _over(self.ratio, goal.earlier)
            or _over(self.figures.median, goal.most)
        )

    def cells(self) -> tuple[str, ...]:
        figures, goal = self.figures, self.goal
        limits = [_verdict(self.ratio, goal.ratio), _verdict(figures.median, goal.most, f" {figures.unit}")]
        return (
            self.operation,
            self.contestant,
            f"{figures.median:.1f} {figures.unit}",
            f"{figures.least:.1f} {figures.unit}",
            "–" if self.ratio is None else f"{self.ratio:.2f}",
            ", ".join(limit for limit in limits if limit) or "–",
            _verdict(self.ratio, goal.earlier) or "–",
        )


def _over(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


def _verdict(value: float | None, limit: float | None, unit: str = "") -> str:
    """`≤ 0.35 met`; empty without a limit or a value."""
    if value is None or limit is None:
        return ""
    return f"≤ {limit:g}{unit} {'missed' if value > limit else 'met'}"


@dataclass(frozen=True)
class Phase:
    """One part of an ADD; the median in milliseconds, and its share of the whole."""

    name: str
    median: float
    share: float


HEADINGS = ("operation", "executables", "median", "min", "ratio", "goal", "first goal")
NUMBERS = range(2, 5)
PHASE_HEADINGS = ("where the time of an ADD goes", "median", "share")
PHASE_NUMBERS = range(1, 3)


def table(rows: Sequence[Row], phases: Sequence[Phase], facts: Mapping[str, object]) -> str:
    """Columns padded to their widest cell, numbers to the right; the facts below."""
    text = _padded([HEADINGS, *(row.cells() for row in rows)], NUMBERS)
    if phases:
        text += ["", *_padded([PHASE_HEADINGS, *map(_phase_cells, phases)], PHASE_NUMBERS)]
    return "\n".join([*text, "", *(f"{name}: {value}" for name, value in facts.items())])


def markdown(rows: Sequence[Row], phases: Sequence[Phase], facts: Mapping[str, object], command: str) -> str:
    """The page that `--write` leaves beside this file."""
    lines = ["# Results", "", f"Written by `{command}`; [README.md](README.md) says how to read it.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", *_piped([HEADINGS, *(row.cells() for row in rows)], NUMBERS)]
    if phases:
        lines += ["", "## Where the time of an ADD goes", ""]
        lines += _piped([PHASE_HEADINGS, *map(_phase_cells, phases)], PHASE_NUMBERS)
    return "\n".join(lines) + "\n"


def _phase_cells(phase: Phase) -> tuple[str, ...]:
    return phase.name, f"{phase.median:.2f} ms", f"{100 * phase.share:.0f} %"


def _padded(lines: Sequence[Sequence[str]], numbers: Container[int]) -> list[str]:
    """Rows as text; a line is left free where the first column begins another thing of several rows."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    firsts = [line[0] for line in lines]
    text = []
    for number, line in enumerate(lines):
        if number and line[0] != firsts[number - 1] and len(set(firsts)) < len(firsts):
            text.append("")
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join(cells).rstrip())
    return text


def _piped(lines: Sequence[Sequence[str]], numbers: Container[int]) -> list[str]:
    """Rows as Markdown."""
    below = ["---:" if column in numbers else "---" for column in range(len(lines[0]))]
    return [f"| {' | '.join(line)} |" for line in (lines[0], below, *lines[1:])]


def as_json(rows: Sequence[Row], phases: Sequence[Phase], facts: Mapping[str, object]) -> dict[str, object]:
    """The same for programs; the figures in the row's unit, the phases in milliseconds."""
    return {
        "facts": dict(facts),
        "rows": [
            {
                "operation": row.operation,
                "executables": row.contestant,
                "unit": row.figures.unit,
                "median": round(row.figures.median, 3),
                "min": round(row.figures.least, 3),
                "quartiles": [round(value, 3) for value in row.figures.quartiles],
                "count": row.figures.count,
                "ratio": None if row.ratio is None else round(row.ratio, 4),
                "goal": asdict(row.goal),
                "missed": row.missed,
            }
            for row in rows
        ],
        "phasesOfAdd": {phase.name: round(phase.median, 3) for phase in phases},
    }
