"""The checklists of observable behaviour: every row is proved or reasoned away, and the document says so."""

from __future__ import annotations

import pytest
from support import conformance
from support.conformance import Checklists, Proof

TABLES = {
    "lists": {"a": {"title": "A", "about": "About."}},
    "rows": {"a": {"1": "one | 1", "2": "two", "3": "three"}},
    "reasons": {"a": {"2": "no such thing here"}},
    "notes": {"a": {"1": "but"}},
}


def test_every_row_is_proved_or_reasoned_away() -> None:
    """No row is left over, and no marker, reason or note names a row that does not exist."""
    assert conformance.load().problems() == []


def test_the_document_is_up_to_date() -> None:
    """docs/conformance.md is what `make conformance` would write now."""
    written = conformance.DOCUMENT.read_text()
    assert written == conformance.load().document(), "run `make conformance`"


def test_markers_name_lists_and_rows() -> None:
    """Each is a list's name and numbers."""
    for proof in conformance.proofs():
        assert isinstance(proof.checklist, str)
        assert type(proof.row) is int


def test_what_is_missing_is_told() -> None:
    """A row without proof, a proof without row."""
    proofs = [Proof("a", 1, "unit/test_x.py", "test_y"), Proof("a", 4, "unit/test_x.py", "test_z")]
    assert Checklists(TABLES, proofs).problems() == [
        "a 3: neither tested nor reasoned away",
        "a 4: no such row",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "| a | 3 | 1 | 2 |",
        r"| 1 | one \| 1 | [unit/test_x.py](../tests/unit/test_x.py): y, TestZ::test_z<br>but |",
        "| 2 | two | no such thing here |",
    ],
)
def test_layout(line: str) -> None:
    """A row tells its tests by file, then its reason and note."""
    proofs = [Proof("a", 1, "unit/test_x.py", name) for name in ("test_y", "TestZ::test_z")]
    assert line in Checklists(TABLES, proofs).document().splitlines()
