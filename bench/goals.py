"""The operations by name, what each is compared with, and the greatest ratio that is acceptable."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "reference"
BACKENDS = ("nftables", "iptables")

ADD, DEL = "ADD", "DEL"
LOOPBACK = "loopback ADD"
VERSION = "VERSION"
STATUS = "STATUS, to VERSION"
BURST_ADD, BURST_DEL = "burst ADD, a pod", "burst DEL, a pod"
BURST_DEL_32 = "burst DEL, 32 at once"
MASQ_ADD, MASQ_DEL = "ipMasq burst ADD", "ipMasq burst DEL"
HELD_FEW, HELD_MANY = "ADD, 10 addresses held", "ADD, 4,000 held"
PORTS_FEW, PORTS_MANY = "ADD, 5 ports", "ADD, 500 ports"
MEMORY_BEFORE, MEMORY_AFTER = "agent, 100 requests", "agent, all requests"


@dataclass(frozen=True)
class Goal:
    """At most this ratio; at most `earlier` was asked first; `most` is in the unit of the figure."""

    ratio: float | None = None
    earlier: float | None = None
    most: float | None = None


_BURST = {"native": Goal(0.40), "python": Goal(earlier=1.5), "alone": Goal(earlier=6.0)}
_MASQ = {f"native, {backend}": Goal(0.20) for backend in BACKENDS}

GOALS: dict[str, dict[str, Goal]] = {
    ADD: {"native": Goal(0.35), "python": Goal(1.1, 1.5), "alone": Goal(4.0, 6.0)},
    DEL: {"native": Goal(0.40), "python": Goal(earlier=1.5), "alone": Goal(earlier=6.0)},
    LOOPBACK: {"native": Goal(1.0)},
    VERSION: {"native": Goal(1.0)},
    STATUS: {"native": Goal(1.0)},
    BURST_ADD: _BURST,
    BURST_DEL: _BURST,
    BURST_DEL_32: {"native": Goal(0.25)},
    MASQ_ADD: _MASQ,
    MASQ_DEL: _MASQ,
    HELD_MANY: {"native": Goal(1.2), "python": Goal(1.2)},
    PORTS_MANY: {"native": Goal(1.3), "python": Goal(1.3)},
    MEMORY_AFTER: {"native": Goal(1.05, most=60), "python": Goal(1.05, most=60)},
}
"""By operation and contestant.

Where a Python process starts for each call, loopback, VERSION and STATUS have none: a bare start of the
interpreter takes three times what the reference needs in all.
"""

_WITH_ITSELF = {
    HELD_FEW: HELD_FEW,
    HELD_MANY: HELD_FEW,
    PORTS_FEW: PORTS_FEW,
    PORTS_MANY: PORTS_FEW,
    MEMORY_BEFORE: MEMORY_BEFORE,
    MEMORY_AFTER: MEMORY_BEFORE,
}


def compared_with(operation: str, contestant: str) -> tuple[str, str]:
    """The operation and the contestant whose median is 1."""
    if operation in _WITH_ITSELF:
        return _WITH_ITSELF[operation], contestant
    return (VERSION if operation == STATUS else operation), REFERENCE
