"""An attachment's rules as the plugin asks for them: each call alone, or all that are waiting in one.

A firewall transaction costs nearly the same for one pod as for fifty, and each change of an iptables table
is a process; so the agent gathers them (`pycni.grouping`). One bad rule makes the kernel refuse a whole
transaction, hence a failed one is repeated by halves until the culprit is alone.
"""

from __future__ import annotations

from pycni.errors import CNIError
from pycni.grouping import Grouped
from pycni_bridge import masquerade, spoofcheck
from pycni_bridge.config import IPTABLES, NFTABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pycni_bridge.masquerade_rules import Masquerade

    T = TypeVar("T")


def by_halves(items: list[T], commit: Callable[[list[T]], object]) -> list[Exception | None]:
    """`commit(items)`, or halves of them if it fails; the answers are exceptions or None, in order."""
    try:
        commit(items)
    except CNIError as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return by_halves(items[:middle], commit) + by_halves(items[middle:], commit)
    return [None] * len(items)


def _everything(*_args: object) -> str:
    return ""


def _masquerade_one(m: Masquerade, backend: str | None) -> None:
    masquerade.setup(m, backend)


def _masquerade_many(calls: list[tuple[Masquerade, str | None]]) -> list[Exception | None]:
    backend = calls[0][1]
    wanted = [m for m, _ in calls]
    if backend == NFTABLES:
        return by_halves(wanted, masquerade.setup_nftables)
    if backend == IPTABLES:
        return by_halves(wanted, masquerade.setup_iptables)
    return by_halves(wanted, lambda some: [masquerade.setup(m, backend) for m in some])


def _unmasquerade_one(m: Masquerade) -> None:
    masquerade.teardown(m)


def _same_backend(_m: Masquerade, backend: str | None) -> str:
    return backend or ""


def _unmasquerade_many(calls: list[tuple[Masquerade]]) -> list[Exception | None]:
    return by_halves([m for (m,) in calls], masquerade.teardown_many)


def _check_many(calls: list[tuple[str, bytes, str]]) -> list[Exception | None]:
    return by_halves(calls, spoofcheck.setup_many)


def _uncheck_many(calls: list[tuple[str]]) -> list[Exception | None]:
    return by_halves([ref for (ref,) in calls], spoofcheck.gc)


add_masquerade = Grouped("masquerade", _masquerade_one, _masquerade_many, _same_backend)
remove_masquerade = Grouped("masquerade removal", _unmasquerade_one, _unmasquerade_many, _everything)
add_spoof_check = Grouped("spoof check", spoofcheck.setup, _check_many, _everything)
remove_spoof_check = Grouped("spoof check removal", spoofcheck.teardown, _uncheck_many, _everything)
