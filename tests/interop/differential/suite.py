"""All cases by name, and their runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from differential import (
    bridge_cases,
    bridge_drift,
    bridge_lives,
    bridge_refused,
    chain_cases,
    hostlocal_cases,
    loopback_cases,
    request_cases,
)
from differential.compare import Difference, differences
from differential.world import run_both

if TYPE_CHECKING:
    from differential.case import Case

REFERENCE = Path(os.environ.get("REF_BIN", "/usr/lib/cni"))

_GROUPS: dict[str, dict[str, Case]] = {
    "request": request_cases.CASES,
    "host-local": hostlocal_cases.CASES,
    "loopback": loopback_cases.CASES,
    "bridge": bridge_cases.CASES | bridge_lives.CASES | bridge_refused.CASES | bridge_drift.CASES,
    "chain": chain_cases.CASES,
}
CASES: dict[str, Case] = {
    f"{group}/{name}": case for group, cases in _GROUPS.items() for name, case in cases.items()
}


def runs(supported: list[str]) -> list[tuple[str, str]]:
    """Each case in each of its spec versions, as far as the reference knows them."""
    return [
        (name, version) for name, case in CASES.items() for version in case.versions if version in supported
    ]


def found(name: str, version: str, newest: bool, folder: Path, ours: Path) -> list[Difference]:
    """What differs when the case happens in both worlds; the newest version is looked at most closely."""
    sides = run_both(CASES[name], version, folder, REFERENCE, ours, thorough=newest)
    (first, moments), (second, other_moments) = sides
    pairs = enumerate(zip(moments, other_moments, strict=True), 1)
    return [
        difference
        for number, (one, other) in pairs
        for difference in differences(number, (first, one), (second, other))
    ]
