"""docs/conformance.md: each row of the checklists with the tests that prove it, or a reason why none does.

    python tests/support/conformance.py      write the document

Rows, reasons and notes are in tests/conformance.toml; which test proves which row is read from the markers
`@pytest.mark.row(list, number, …)` in the tests' sources.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "conformance.md"
CHECKLISTS = TESTS / "conformance.toml"

HEAD = """\
# Conformance

Two checklists of observable behaviour, and for each row the tests that prove it or the reason why it does
not apply. Written by `make conformance` from the tests' markers (`@pytest.mark.row`) and
tests/conformance.toml; a unit test fails if this file is out of date, or a row has neither. Where ours
differs from the reference on purpose: [differences.md](differences.md).
"""
COLUMNS = "| # | behaviour | proof |\n| --- | --- | --- |\n"


class Proof(NamedTuple):
    """A test that proves a row."""

    checklist: str
    row: int
    path: str
    name: str


def proofs() -> list[Proof]:
    """The markers of all tests, by file and in their order."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        relative = str(path.relative_to(TESTS))
        for name, marker in _marked(ast.parse(path.read_text())):
            checklist, *rows = _arguments(marker)
            found += [Proof(checklist, row, relative, name) for row in rows]
    return found


def _marked(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """(name, call of the marker) of each test function and method."""
    for holder in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        prefix = f"{holder.name}::" if isinstance(holder, ast.ClassDef) else ""
        for node in holder.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.row":
                        yield prefix + node.name, decorator


def _arguments(marker: ast.Call) -> list[Any]:
    """The marker's arguments: constants, and ranges that are unpacked."""
    values: list[Any] = []
    for argument in marker.args:
        if isinstance(argument, ast.Starred):
            assert isinstance(argument.value, ast.Call)
            assert ast.unparse(argument.value.func) == "range"
            values += range(*(ast.literal_eval(bound) for bound in argument.value.args))
        else:
            values.append(ast.literal_eval(argument))
    return values


class Checklists:
    """The checklists with what is known of each row."""

    def __init__(self, tables: dict[str, Any], found: list[Proof]) -> None:
        self.lists: dict[str, dict[str, str]] = tables["lists"]
        self.rows = {name: _numbered(tables["rows"][name]) for name in self.lists}
        self.reasons = {name: _numbered(tables.get("reasons", {}).get(name, {})) for name in self.lists}
        self.notes = {name: _numbered(tables.get("notes", {}).get(name, {})) for name in self.lists}
        self.found = found

    def tests(self, name: str, row: int) -> list[Proof]:
        return [proof for proof in self.found if (proof.checklist, proof.row) == (name, row)]

    def problems(self) -> list[str]:
        """What is wrong: rows without proof and reason, markers and reasons of rows that do not exist."""
        known = {(name, row) for name, rows in self.rows.items() for row in rows}
        tested = {(proof.checklist, proof.row) for proof in self.found}
        excused = {(name, row) for name, rows in self.reasons.items() for row in rows}
        noted = {(name, row) for name, rows in self.notes.items() for row in rows}
        found = [
            f"{name} {row}: neither tested nor reasoned away"
            for name, row in sorted(known - tested - excused)
        ]
        found += [f"{name} {row}: no such row" for name, row in sorted((tested | excused | noted) - known)]
        for name, rows in self.rows.items():
            if list(rows) != list(range(1, len(rows) + 1)):
                found.append(f"{name}: the rows are not numbered from 1 on")
        return found

    def document(self) -> str:
        """The whole text."""
        parts = [HEAD, self._summary()]
        for name, about in self.lists.items():
            parts.append(f"\n## {about['title']}\n\n{about['about']}\n\n{COLUMNS}")
            parts += [self._line(name, row, text) for row, text in self.rows[name].items()]
        return "".join(parts)

    def _summary(self) -> str:
        lines = ["\n| checklist | rows | tested | reasoned away |\n| --- | --- | --- | --- |\n"]
        for name, rows in self.rows.items():
            tested = sum(bool(self.tests(name, row)) for row in rows)
            lines.append(f"| {name} | {len(rows)} | {tested} | {len(rows) - tested} |\n")
        return "".join(lines)

    def _line(self, name: str, row: int, text: str) -> str:
        by_file: dict[str, list[str]] = {}
        for proof in self.tests(name, row):
            short = proof.name.replace("test_", "", 1) if "::" not in proof.name else proof.name
            by_file.setdefault(proof.path, []).append(short)
        cells = [f"[{path}](../tests/{path}): {', '.join(names)}" for path, names in by_file.items()]
        cells += [told for told in (self.reasons[name].get(row), self.notes[name].get(row)) if told]
        return f"| {row} | {_cell(text)} | {'<br>'.join(map(_cell, cells))} |\n"


def _numbered(table: dict[str, str]) -> dict[int, str]:
    return {int(row): text for row, text in table.items()}


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def load() -> Checklists:
    """What the sources say now."""
    return Checklists(tomllib.loads(CHECKLISTS.read_text()), proofs())


def main() -> int:
    checklists = load()
    DOCUMENT.write_text(checklists.document())
    problems = checklists.problems()
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
