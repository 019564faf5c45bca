"""docs/differences.md: every place where ours is meant to differ, read as the tests' list of exceptions.

Each section of that file tells what differs and why, and ends with a table:

    [a-name]
    reference = ["1.1.1"]        # releases of the reference that it was seen with
    cases = ["bridge/*"]         # cases of the differential suite, with wildcards
    versions = ["1.0.0"]         # spec versions; all if left out
    where = ['ADD bridge: .*']   # places, as regular expressions
    theirs = '…'                 # what the reference has there and what ours, as JSON; anything if left out
    ours = '…'
    shown_by = ["bridge/…"]      # cases that must show it; all of `cases` if left out
    golden = ["case:step"]       # steps of the recordings where it shows
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import subprocess
import tomllib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from differential.compare import Difference

DOCUMENT = Path(__file__).parents[3] / "docs" / "differences.md"
RECORDED_RELEASE = "1.9.1"
"""The release that the recordings in tests/golden were made with."""
_SECTION = re.compile(
    r"^#{2,4} (?P<title>.+)\n(?P<text>(?:(?!^#|^```).*\n)*)```toml\n(?P<table>[^`]*)```$", re.M
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One listed difference."""

    name: str
    reason: str
    reference: tuple[str, ...]
    where: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    theirs: str = ".*"
    ours: str = ".*"
    shown_by: tuple[str, ...] = ()
    golden: tuple[str, ...] = ()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        places = "|".join(f"(?:{place})" for place in self.where)
        return re.compile(f"(?:{places})\x00(?:{self.theirs})\x00(?:{self.ours})", re.DOTALL)

    def covers(self, case: str, version: str) -> bool:
        """Whether it may show in this case (GROUP/NAME) in this spec version."""
        fits = any(fnmatch.fnmatchcase(case, pattern) for pattern in self.cases)
        return fits and (not self.versions or version in self.versions)

    def must_show(self, case: str) -> bool:
        """Whether a case that it covers must show it."""
        return not self.shown_by or any(fnmatch.fnmatchcase(case, pattern) for pattern in self.shown_by)

    def allows(self, found: Difference) -> bool:
        """Whether this is the difference meant."""
        return self._pattern.fullmatch(f"{found.where}\x00{found.reference}\x00{found.ours}") is not None


def load() -> list[Entry]:
    """All entries; raises ValueError for a section whose table or reason is missing or misspelt."""
    text = DOCUMENT.read_text()
    entries = []
    for section in _SECTION.finditer(text):
        reason = section["text"].strip()
        if not reason:
            raise ValueError(f"{DOCUMENT.name}: no reason is given for {section['title']!r}")
        for name, table in tomllib.loads(section["table"]).items():
            lists = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
            entries.append(Entry(name, reason, **lists))
    if len(entries) < text.count("\nreference ="):
        raise ValueError(f"{DOCUMENT.name}: a table is not at the end of a section with a title and a text")
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"{DOCUMENT.name}: two tables have one name")
    return entries


def release_of(bin_dir: Path) -> str:
    """Which release of the reference lies in `bin_dir`.

    REF_VERSION, if set; else what `bridge` says of itself; an unstamped build is looked up among Debian's
    packages. Raises AssertionError where nothing tells.
    """
    if told := os.environ.get("REF_VERSION"):
        return told
    about = subprocess.run([bin_dir / "bridge"], env={}, capture_output=True, check=False, text=True).stderr
    if stamped := re.search(r"plugin v(\d+\.\d+\.\d+)", about):
        return stamped[1]
    owner = subprocess.run(
        ["dpkg-query", "--search", bin_dir / "bridge"], capture_output=True, check=False, text=True
    )
    package = owner.stdout.partition(":")[0]
    shown = ["dpkg-query", "--show", "--showformat=${Version}", package]
    version = subprocess.run(shown, capture_output=True, check=False, text=True).stdout if package else ""
    assert version, f"{bin_dir}/bridge does not tell its release: set REF_VERSION"
    return re.split(r"[+~-]", version.split(":")[-1])[0]
