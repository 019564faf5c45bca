"""MAC spoof check: frames of a pod pass only with the MAC that ADD gave it.

Per attachment a rule in the bridge family's PREROUTING that catches the host side's frames, and two chains.
Names and rules are the reference's (`pkg/link`, spoofcheck), so that either implementation removes what the
other wrote. Everything but the pure functions blocks (call it through `ctx.run`) and acts on the network
namespace of the calling thread.
"""

from __future__ import annotations

from pycni.errors import CNIError
from pycni.kernel import nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from pycni.kernel.nftables import Command, Rule

FAMILY: Final = "bridge"
TABLE: Final = "nat"
HOOK: Final = "PREROUTING"
_COMMENT: Final = "macspoofchk-"


def reference(container_id: str, ifname: str) -> str:
    """What names an attachment here: `<container id>-<interface>`; the network is not part of it.

    It is compared with what nft reports, which is text, also where the interface's name is none.
    """
    return f"{container_id}-{ifname}".encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def setup_commands(host_veth: str, mac: bytes, ref: str, existing: Iterable[Rule]) -> list[Command]:
    """Table, chains and rules; `existing` are the rules of PREROUTING, of which this ref's are replaced."""
    interface_chain, mac_chain = _chains(ref)
    entry = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": host_veth}}
    return [
        nftables.add("table", family=FAMILY, name=TABLE),
        nftables.add(
            "chain",
            family=FAMILY,
            table=TABLE,
            name=HOOK,
            type="filter",
            hook="prerouting",
            prio=-300,
            policy="accept",
        ),
        nftables.add("chain", family=FAMILY, table=TABLE, name=interface_chain),
        nftables.add("chain", family=FAMILY, table=TABLE, name=mac_chain),
        nftables.flush_chain(FAMILY, TABLE, interface_chain),
        nftables.flush_chain(FAMILY, TABLE, mac_chain),
        *_entry_deletions(ref, existing),
        _rule(HOOK, ref, entry, {"jump": {"target": interface_chain}}),
        _rule(interface_chain, ref, {"jump": {"target": mac_chain}}),
        _rule(mac_chain, ref, nftables.match("ether", "saddr", mac.hex(":")), {"return": None}),
        _rule(mac_chain, ref, {"drop": None}),
    ]


def teardown_commands(ref: str, existing: Iterable[Rule], chains: Iterable[str]) -> list[Command]:
    """Delete this ref's rules among `existing` (of PREROUTING) and its chains among `chains`."""
    mine = [name for name in _chains(ref) if name in chains]
    return [
        *_entry_deletions(ref, existing),
        *(nftables.flush_chain(FAMILY, TABLE, name) for name in mine),
        *(nftables.delete("chain", family=FAMILY, table=TABLE, name=name) for name in mine),
    ]


def setup(host_veth: str, mac: bytes, ref: str) -> None:
    """Let frames from `host_veth` pass only with the source `mac` (six bytes), in one transaction.

    Repeating it replaces what is there. Raises CNIError `failed to setup spoof-check: …`.
    """
    setup_many([(host_veth, mac, ref)])


def setup_many(many: Sequence[tuple[str, bytes, str]]) -> None:
    """`setup` for many (host veth, MAC, ref) in one transaction."""

    def decide() -> list[Command]:
        existing = nftables.list_chain(FAMILY, TABLE, HOOK)
        return [command for one in many for command in setup_commands(*one, existing)]

    try:
        nftables.transact(decide)
    except CNIError as error:
        raise CNIError(f"failed to setup spoof-check: {error.msg}", error.details, code=error.code) from error


def teardown(ref: str) -> None:
    """Remove an attachment's rules and chains; nothing there is fine. Table and PREROUTING stay.

    Raises CNIError `failed to teardown spoof-check: …`.
    """
    gc((ref,))


def gc(refs: Iterable[str]) -> None:
    """`teardown` for many refs in one transaction.

    The names do not tell the network, so the caller must know that these refs are its own and gone.
    """
    names = tuple(refs)

    def decide() -> list[Command]:
        existing = nftables.read_chain(FAMILY, TABLE, HOOK) or []
        chains = frozenset(nftables.chain_names(FAMILY, TABLE))
        return [command for ref in names for command in teardown_commands(ref, existing, chains)]

    try:
        nftables.transact(decide)
    except CNIError as error:
        raise CNIError(
            f"failed to teardown spoof-check: {error.msg}", error.details, code=error.code
        ) from error


def drift(host_veth: str, mac: bytes, ref: str) -> list[str]:
    """What of the rules is missing or different, in words; for CHECK. Raises CNIError if it cannot look."""
    wanted = setup_commands(host_veth, mac, ref, ())
    findings = []
    for chain in (HOOK, *_chains(ref)):
        expected = [
            c["add"]["rule"] for c in wanted if c.get("add", {}).get("rule", {}).get("chain") == chain
        ]
        present = [
            rule
            for rule in nftables.list_chain(FAMILY, TABLE, chain)
            if rule.get("comment") == f"{_COMMENT}{ref}"
        ]
        if [rule["expr"] for rule in present] != [rule["expr"] for rule in expected]:
            findings.append(f"rules of {ref} in chain {FAMILY} {TABLE} {chain} are missing or different")
    return findings


def refs() -> frozenset[str]:
    """The refs that have a rule in PREROUTING, of all networks; raises CNIError if nftables cannot tell."""
    comments = (rule.get("comment", "") for rule in nftables.list_chain(FAMILY, TABLE, HOOK))
    return frozenset(text.removeprefix(_COMMENT) for text in comments if text.startswith(_COMMENT))


def entries() -> list[tuple[str, str]]:
    """The rules in PREROUTING of all networks, as (ref, host side); raises like `refs`."""
    return [
        (rule["comment"].removeprefix(_COMMENT), expression["match"]["right"])
        for rule in nftables.list_chain(FAMILY, TABLE, HOOK)
        if rule.get("comment", "").startswith(_COMMENT)
        for expression in rule["expr"]
        if "match" in expression
    ]


def _chains(ref: str) -> tuple[str, str]:
    return f"cni-br-iface-{ref}", f"cni-br-iface-{ref}-mac"


def _rule(chain: str, ref: str, *expressions: object) -> Command:
    return nftables.add(
        "rule", family=FAMILY, table=TABLE, chain=chain, expr=[*expressions], comment=f"{_COMMENT}{ref}"
    )


def _entry_deletions(ref: str, existing: Iterable[Rule]) -> list[Command]:
    return [
        nftables.delete("rule", family=FAMILY, table=TABLE, chain=HOOK, handle=rule["handle"])
        for rule in existing
        if rule.get("comment") == f"{_COMMENT}{ref}"
    ]
