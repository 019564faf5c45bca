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
from differential.bridge_lives import CHECKED, MASQUERADED
from differential.case import BRIDGE, Case, Shell, add
from differential.compare import differences
from differential.listed import RECORDED_RELEASE, Entry, load, release_of
from differential.suite import CASES, REFERENCE, found, runs
from differential.world import World

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
SEEN = MASQUERADED | CHECKED
CHANGES = [
    (0, "true"),
    (0, f"ip link set {BRIDGE} down"),
    (0, f"ip link set {BRIDGE} promisc on"),
    (0, f"ip addr add 10.9.0.1/24 dev {BRIDGE}"),
    (0, "ip link add more0 type bridge"),
    (0, "sysctl -qw net.ipv6.conf.all.forwarding=1"),
    (0, f"sysctl -qw net.ipv4.conf.{BRIDGE}.arp_notify=1"),
    (0, "iptables -t nat -A POSTROUTING -s 10.9.0.1 -j ACCEPT"),
    (0, "ip6tables -A FORWARD -j ACCEPT"),
    (0, "nft flush chain bridge nat PREROUTING"),
    (0, "nft add table inet more"),
    (0, "ip route add 10.9.0.0/16 via 10.40.0.9"),
    (0, "printf x >>$DATADIR/diffnet/10.40.0.2"),
    (0, "chmod 600 $DATADIR/diffnet/lock"),
    (1, "ip link set eth0 mtu 1400"),
    (1, "ip link set eth0 address 02:00:00:00:00:55"),
    (1, "ip link set lo up"),
    (1, "ip route replace default via 10.40.0.9"),
    (1, "ip -6 route add fd09::/64 dev eth0"),
    (1, "sysctl -qw net.ipv6.conf.eth0.accept_dad=1"),
]
LISTED = [entry for entry in ENTRIES if RELEASE in entry.reference]


@pytest.mark.row("plugins", 97, 135, 136, 138)
@pytest.mark.row("contract", 64)
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


@pytest.mark.parametrize(("place", "command"), CHANGES)
def test_the_comparison_sees(place: int, command: str, tmp_path: Path) -> None:
    """A change in one of two equal worlds is a difference: a blind comparison proves nothing."""
    worlds = [
        World(
            Case((add(SEEN), Shell(done, pod=pod))),
            "1.0.0",
            tmp_path / name,
            REFERENCE,
            REFERENCE,
            thorough=True,
        )
        for name, done, pod in (("one", "true", 0), ("two", command, place))
    ]
    try:
        (first, moments), (second, changed) = ((world, world.run()) for world in worlds)
        assert differences(1, (first, moments[0]), (second, changed[0])) == []
        found_now = differences(2, (first, moments[1]), (second, changed[1]))
        assert bool(found_now) == (command != "true"), found_now
    finally:
        for world in worlds:
            world.close()


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
