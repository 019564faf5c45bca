"""Ours beside the reference's executables: same requests, equal worlds, everything that can be seen compared.

docs/differences.md lists where ours is meant to differ. What differs elsewhere fails, and so does a listed
difference that does not show. `REF_BIN=DIR` takes the reference's executables from another folder,
`REF_VERSION=X.Y.Z` says which release they are where they do not say so themselves.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from deviations import DEVIATIONS
from differential.listed import RECORDED_RELEASE, Entry, load, release_of
from differential.suite import CASES, REFERENCE, found, runs

if TYPE_CHECKING:
    from pathlib import Path


def _supported() -> list[str]:
    asked = subprocess.run(
        [REFERENCE / "bridge"], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True
    )
    return list(json.loads(asked.stdout)["supportedVersions"])


SUPPORTED = _supported()
RUNS = runs(SUPPORTED)
RELEASE = release_of(REFERENCE)
ENTRIES = load()
LISTED = [entry for entry in ENTRIES if RELEASE in entry.reference]


@pytest.mark.parametrize(("name", "version"), RUNS, ids=[f"{name}-{version}" for name, version in RUNS])
def test_same_as_the_reference(name: str, version: str, bin_dir: Path, tmp_path: Path) -> None:
    """What ours prints and leaves is what the reference prints and leaves, but for the listed differences."""
    newest = max(each for each in CASES[name].versions if each in SUPPORTED)
    differences = found(name, version, version == newest, tmp_path, bin_dir)
    listed = [entry for entry in LISTED if entry.covers(name, version)]
    wrong = [str(each) for each in differences if not any(entry.allows(each) for entry in listed)]
    wrong += [
        f"listed as {entry.name}, but does not show"
        for entry in listed
        if entry.must_show(name) and not any(entry.allows(each) for each in differences)
    ]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_enough_cases() -> None:
    """There are at least 250 cases, counted without their spec versions."""
    assert len({name for name, _ in RUNS}) >= 250


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_listed_difference_names_what_there_is(entry: Entry) -> None:
    """An entry names releases, cases that exist and at least one that must show it."""
    assert entry.reference
    for pattern in (*entry.cases, *entry.shown_by):
        covered = [name for name in CASES if Entry("", "", (), cases=(pattern,)).covers(name, "")]
        assert covered, f"{pattern} is the name of no case"
    assert bool(entry.cases) == bool(entry.where)
    shown = [
        name for name in CASES if entry.covers(name, (*entry.versions, "1.0.0")[0]) and entry.must_show(name)
    ]
    assert shown or not entry.cases
    assert bool(entry.golden) == (RECORDED_RELEASE in entry.reference), (
        "the recordings speak for that release"
    )


def test_recordings_and_list_agree() -> None:
    """The steps of the recordings where ours deviates are those that docs/differences.md lists."""
    listed = [step for entry in ENTRIES for step in entry.golden]
    assert sorted(listed) == sorted(f"{case}:{step}" for case, step in DEVIATIONS)
