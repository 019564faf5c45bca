"""Fixtures for the tests of the native launcher's frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.played import PLUGIN, STAND_IN, Played

from pycni import install
from pycni.native import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECKED = ("-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="session")
def checked() -> bytes:
    """The program with the compiler's run time checks."""
    return build.compile_program(CHECKED, linking=((),))


@pytest.fixture
def played(checked: bytes, tmp_path: Path) -> Iterator[Played]:
    """An agent to be played, and an executable that becomes STAND_IN where it should become Python."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    data = install.native_launcher(checked, *PLUGIN, run_dir=tmp_path, python=str(python))
    install.write_launchers(tmp_path, {"mirror": data})
    made = Played(tmp_path)
    yield made
    made.close()
