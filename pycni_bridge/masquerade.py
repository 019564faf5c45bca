"""Masquerading: bring the rules of `masquerade_rules` into the kernel, and out again.

Set-up uses one backend, the configured one; removal looks at both, because the config may have changed
since. Everything here blocks (call it through `ctx.run`) and acts on the network namespace of the calling
thread.
"""

from __future__ import annotations

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import iptables, nftables
from pycni_bridge import masquerade_rules as rules
from pycni_bridge.config import IPTABLES, NFTABLES, validate_backend
from pycni_bridge.masquerade_rules import Masquerade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pycni.addresses import CIDR
    from pycni.kernel.nftables import Command

__all__ = ["Masquerade", "gc", "setup", "stale", "teardown", "unmasqueraded", "validate_backend"]

_NAT: Final = {4: ("ip", "nat"), 6: ("ip6", "nat")}
_FAMILIES: Final = (4, 6)


def setup(m: Masquerade, backend: str | None) -> str:
    """Masquerade what leaves the subnets of `m.addresses`; returns the backend used.

    Repeating it changes nothing; nftables rules that an earlier attempt of this attachment left are
    replaced in the same transaction. Without `backend` it is iptables, or nftables where iptables does not
    work and nftables does. Raises CNIError with the backend's words, code 11 if it is locked.
    """
    validate_backend(backend)
    if backend == NFTABLES:
        setup_nftables([m])
        return NFTABLES
    try:
        setup_iptables([m])
        return IPTABLES
    except CNIError as error:
        if backend is not None or error.code == TRY_AGAIN_LATER or not nftables.works():
            raise
    teardown(m)
    setup_nftables([m])
    return NFTABLES


def teardown(m: Masquerade, known_addresses: tuple[CIDR, ...] = ()) -> None:
    """Remove the attachment's rules from both backends; nothing there is fine, and nothing is created.

    `m.addresses` and `known_addresses` (of the interface, of prevResult, of the store) matter to iptables
    only, where the container's interfaces share a chain: their jumps go, and the chain with the last jump.
    With no address known all jumps go, for a rule left behind would masquerade the address's next owner,
    while a second interface of one container on one network hardly exists. Goes on past errors and raises
    the first; those of a backend that does not work on this node do not count.
    """
    own = rules.sources((*m.addresses, *known_addresses))
    errors: list[CNIError] = []
    usable = True
    try:
        nftables.transact(lambda: _teardown_commands([(m, own)]))
    except CNIError as error:
        usable = nftables.works()
        if usable:
            errors.append(error)
    for family in _FAMILIES:
        for path in _iptables_beside_nftables(family, usable):
            try:
                _teardown_iptables(m, path, own)
            except CNIError as error:
                errors += _counting(path, error)
    _raise_first(errors)


def gc(network: str, valid: frozenset[tuple[str, str]]) -> list[str]:
    """Remove the rules of `network` that belong to no `valid` attachment (container id, interface).

    Returns what was removed, one text for each rule or chain. An iptables chain goes when its *container*
    has no valid attachment. Goes on past errors and raises the first, like `teardown`.
    """
    return _collect(network, valid, remove=True)


def stale(network: str, valid: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """What `gc` would remove."""
    return _collect(network, valid, remove=False)


def unmasqueraded(m: Masquerade) -> list[CIDR]:
    """The addresses of `m` for which neither backend has a rule; for CHECK.

    Raises CNIError if iptables has to be asked and fails; nftables that does not work has no rules.
    """
    try:
        present = rules.masqueraded(m, nftables.list_chain("inet", rules.TABLE, rules.CHECKS))
    except CNIError:
        present = frozenset()
    missing = [cidr for cidr in m.addresses if cidr not in present]
    for family in sorted({cidr.family for cidr in missing}):
        lines = _jumps(family)
        missing = [cidr for cidr in missing if cidr.family != family or rules.jump_line(m, cidr) not in lines]
    return missing


def _jumps(family: int) -> list[str]:
    path = iptables.find(family)
    if path is None or (iptables.kind_of(path) == "legacy" and "nat" not in iptables.legacy_tables(family)):
        return []
    return iptables.read_chain(path, "nat", "POSTROUTING") or []


# --- nftables ---


def setup_nftables(many: Sequence[Masquerade]) -> None:
    """`setup` of the nftables backend for many attachments in one transaction."""

    def decide() -> list[Command]:
        existing = nftables.read_chain("inet", rules.TABLE, rules.CHECKS)
        if existing is None:
            _create()
        return [*rules.BASE, *(command for m in many for command in rules.setup_commands(m, existing or ()))]

    nftables.transact(decide)


def _create() -> None:
    try:  # noqa: SIM105 - importing contextlib costs a one-shot process more than this saves
        nftables.run(rules.CREATE)
    except nftables.NftError:
        pass  # an nftables without comments on objects; rules.BASE makes the same without


def teardown_many(many: Sequence[Masquerade]) -> None:
    """`teardown` for many attachments in one transaction of what nftables shows. Raises its first error."""
    if len(many) == 1:
        teardown(many[0])
        return
    nftables.transact(lambda: _teardown_commands([(m, rules.sources(m.addresses)) for m in many]))
    for family in _FAMILIES:
        for path in _iptables_beside_nftables(family, nftables_usable=True):
            for m in many:
                _teardown_iptables(m, path, rules.sources(m.addresses))


def _teardown_commands(many: Sequence[tuple[Masquerade, frozenset[str] | None]]) -> list[Command]:
    """For both what the nftables backend wrote and what iptables' nft kind did."""
    existing = nftables.list_chain("inet", rules.TABLE, rules.CHECKS)
    commands = [command for m, _ in many for command in rules.teardown_commands(m, existing)]
    for family, place in _NAT.items():
        chains = frozenset(nftables.chain_names(*place))
        present = [(m, own) for m, own in many if m.chain in chains]
        jumps = nftables.list_chain(*place, "POSTROUTING") if present else []
        for m, own in present:
            commands += rules.teardown_chain_commands(family, m.chain, jumps, own)
    return commands


# --- iptables ---


def setup_iptables(many: Sequence[Masquerade]) -> None:
    """`setup` of the iptables backend for many attachments, one transaction for each address family."""
    for family in _FAMILIES:
        wanted = [m for m in many if family in m.families]
        # A chain that two of them share is written as a whole, so the second must see the first's.
        for group in _without_shared_chains(wanted):
            path = iptables.locate(family)
            lines = [line for m in group for line in _setup_lines(path, family, m)]
            if lines:
                iptables.change(path, "nat", lines)


def _without_shared_chains(many: Sequence[Masquerade]) -> list[list[Masquerade]]:
    groups: list[dict[str, Masquerade]] = []
    for m in many:
        group = next((group for group in groups if m.chain not in group), None)
        if group is None:
            groups.append(group := {})
        group[m.chain] = m
    return [list(group.values()) for group in groups]


def _setup_lines(path: str, family: int, m: Masquerade) -> list[str]:
    present = _read_chain(path, family, m.chain)
    jumps = iptables.read_chain(path, "nat", "POSTROUTING") or [] if present is not None else []
    return rules.setup_lines(m, family, present, jumps)


def _read_chain(path: str, family: int, chain: str) -> list[str] | None:
    """The chain's rules; that there is no chain is seen without a process where nftables can tell."""
    if iptables.kind_of(path) == "nft" and nftables.in_process():
        try:
            if nftables.read_chain(*_NAT[family], chain) is None:
                return None
        except CNIError:
            pass  # iptables itself will say what is wrong
    return iptables.read_chain(path, "nat", chain)


def _iptables_beside_nftables(family: int, nftables_usable: bool) -> list[str]:
    """The executables to ask for rules that nftables does not show."""
    paths = []
    if "nat" in iptables.legacy_tables(family):
        paths.append(iptables.find(family, "legacy"))
    if not nftables_usable:
        paths.append(iptables.find(family, "nft"))
    return list(dict.fromkeys(path for path in paths if path is not None))


def _teardown_iptables(m: Masquerade, path: str, own: frozenset[str] | None) -> None:
    if iptables.read_chain(path, "nat", m.chain) is None:
        return
    jumps = iptables.read_chain(path, "nat", "POSTROUTING") or []
    lines = rules.teardown_lines(m.chain, jumps, own)
    if lines:
        iptables.change(path, "nat", lines)


# --- both ---


def _collect(network: str, valid: frozenset[tuple[str, str]], *, remove: bool) -> list[str]:
    found: list[str] = []
    errors: list[CNIError] = []
    usable = True

    def decide() -> list[Command]:
        existing = nftables.list_chain("inet", rules.TABLE, rules.CHECKS)
        old = rules.stale_rules(network, valid, existing)
        found[:] = [f"nftables rule {rule['comment']}" for rule in old]
        return [rules.deletion(rule) for rule in old] if remove else []

    try:
        nftables.transact(decide)
    except CNIError as error:
        usable = nftables.works()
        if usable:
            errors.append(error)
    for family, place in _NAT.items():
        paths = _iptables_beside_nftables(family, usable)
        if usable and any(name.startswith("CNI-") for name in nftables.chain_names(*place)):
            paths.append(iptables.find(family, "nft") or iptables.locate(family))
        for path in paths:
            try:
                found += _collect_chains(network, valid, path, remove)
            except CNIError as error:
                errors += _counting(path, error)
    _raise_first(errors)
    return found


def _collect_chains(network: str, valid: frozenset[tuple[str, str]], path: str, remove: bool) -> list[str]:
    table = iptables.read_table(path, "nat")
    chains = rules.stale_chains(network, {container_id for container_id, _ in valid}, table)
    lines = [line for chain in chains for line in rules.teardown_lines(chain, table, None)]
    if remove and lines:
        iptables.change(path, "nat", lines)
    return [f"{path.rpartition('/')[2]} chain {chain}" for chain in chains]


def _counting(path: str, error: CNIError) -> list[CNIError]:
    """The error, unless iptables does not work on this node at all."""
    return [error] if iptables.works(path) else []


def _raise_first(errors: list[CNIError]) -> None:
    if errors:
        raise errors[0]
