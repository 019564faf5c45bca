"""Fixtures for the tests of what may go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from journal import JournalNode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def node(tmp_path: Path) -> Iterator[JournalNode]:
    """Executables whose plugins keep a journal, and agents that serve them."""
    made = JournalNode(tmp_path)
    yield made
    made.close()
