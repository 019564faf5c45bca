"""Masquerading: which rules, under which names; nothing here touches the kernel.

Names, comments and rules are the reference's to the byte, so that either implementation removes what the
other one wrote. An attachment's nftables rules are found by the *key* at the beginning of their comment;
its iptables rules by a chain that all interfaces of the container on that network share.
Source: the reference's `pkg/ip` (ipmasq) and `pkg/utils`.
"""

from __future__ import annotations

from pycni.addresses import CIDR
from pycni.kernel import nftables
from pycni.names import digest
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from pycni.kernel.nftables import Command, Rule

TABLE: Final = "cni_plugins_masquerade"
CHECKS: Final = "masq_checks"
_HOOK: Final = "postrouting"
_COMMENT_BYTES: Final = 128
_KEY_CHARACTERS: Final = 33
_MULTICAST: Final = {4: "224.0.0.0/4", 6: "ff00::/8"}
_NFT_FAMILY: Final = {4: "ip", 6: "ip6"}

CREATE: Final = f"""\
add table inet {TABLE} {{ comment "Masquerading for plugins from github.com/containernetworking/plugins" ; }}
add chain inet {TABLE} {CHECKS} {{ \
comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet" ; }}
"""
"""Makes table and chain with their comments, which JSON cannot carry in nftables 1.0."""


def _base_rule(*expressions: object) -> Command:
    return nftables.add("rule", family="inet", table=TABLE, chain=_HOOK, expr=[*expressions])


BASE: Final = (
    nftables.add("table", family="inet", name=TABLE),
    nftables.add("chain", family="inet", table=TABLE, name=CHECKS),
    nftables.add("chain", family="inet", table=TABLE, name=_HOOK, type="nat", hook="postrouting", prio=100),
    nftables.flush_chain("inet", TABLE, _HOOK),
    _base_rule(nftables.match("ip", "daddr", {"prefix": {"addr": "224.0.0.0", "len": 4}}), {"return": None}),
    _base_rule(nftables.match("ip6", "daddr", {"prefix": {"addr": "ff00::", "len": 8}}), {"return": None}),
    _base_rule({"goto": {"target": CHECKS}}),
)
"""What every set-up begins with, once in a transaction: the frame, made or restored."""


class Masquerade(Record):
    """What an attachment asks for; `addresses` are the pod's, with the prefix that stays unmasqueraded."""

    network: str
    container_id: str
    ifname: str
    addresses: tuple[CIDR, ...] = ()

    @property
    def key(self) -> str:
        """33 characters: 16 digits for the network, a hyphen, 16 for interface and container."""
        return network_prefix(self.network) + digest(f"{self.ifname}:{self.container_id}")[:16]

    @property
    def comment(self) -> str:
        """Of each nftables rule; cut at 128 bytes, so only the key can be relied on."""
        parts = f", net: {self.network}, if: {self.ifname}, id: {self.container_id}".replace('"', "")
        raw = (self.key + parts).encode("utf-8", "surrogateescape")[:_COMMENT_BYTES]
        return raw.decode("utf-8", "ignore")

    @property
    def chain(self) -> str:
        """Of iptables; 28 characters, which is what iptables allows."""
        return chain_name(self.network, self.container_id)

    @property
    def families(self) -> tuple[int, ...]:
        return tuple(family for family in (4, 6) if any(cidr.family == family for cidr in self.addresses))


def network_prefix(network: str) -> str:
    """17 characters with which the comments of all nftables rules of a network begin."""
    return digest(network)[:16] + "-"


def chain_name(network: str, container_id: str) -> str:
    """The iptables chain of a container on a network."""
    return f"CNI-{digest(network + container_id)}"[:28]


# --- The nftables backend ---


def setup_commands(m: Masquerade, existing: Iterable[Rule]) -> list[Command]:
    """Replace the attachment's rules among `existing` (those of the chain CHECKS); follows BASE."""
    commands = teardown_commands(m, existing)
    commands += [
        nftables.add(
            "rule", family="inet", table=TABLE, chain=CHECKS, expr=_expressions(cidr), comment=m.comment
        )
        for cidr in m.addresses
    ]
    return commands


def _expressions(cidr: CIDR) -> list[Command]:
    protocol, network = _NFT_FAMILY[cidr.family], cidr.network
    # nftables lists a whole address as itself, not as a prefix; write what it lists.
    whole = network.prefix == network.ip.bits
    inside = str(network.ip) if whole else {"prefix": {"addr": str(network.ip), "len": network.prefix}}
    return [
        nftables.match(protocol, "saddr", str(cidr.ip)),
        nftables.match(protocol, "daddr", inside, "!="),
        {"masquerade": None},
    ]


def teardown_commands(m: Masquerade, existing: Iterable[Rule]) -> list[Command]:
    """Delete the attachment's rules among `existing`, by key; addresses are not needed."""
    return _deletions(rule for rule in existing if rule.get("comment", "").startswith(m.key))


def stale_rules(network: str, valid: frozenset[tuple[str, str]], existing: Iterable[Rule]) -> list[Rule]:
    """The rules of `network` that belong to none of the `valid` attachments (container id, interface)."""
    prefix = network_prefix(network)
    keys = {Masquerade(network, container_id, ifname).key for container_id, ifname in valid}
    return [
        rule
        for rule in existing
        if (comment := rule.get("comment", "")).startswith(prefix) and comment[:_KEY_CHARACTERS] not in keys
    ]


def masqueraded(m: Masquerade, existing: Iterable[Rule]) -> frozenset[CIDR]:
    """The addresses of `m` for which `existing` holds the attachment's rule, exactly as set-up writes it."""
    mine = [rule["expr"] for rule in existing if rule.get("comment", "").startswith(m.key)]
    return frozenset(cidr for cidr in m.addresses if _expressions(cidr) in mine)


def deletion(rule: Rule) -> Command:
    """Delete a listed rule by its handle."""
    return nftables.delete(
        "rule", family=rule["family"], table=rule["table"], chain=rule["chain"], handle=rule["handle"]
    )


def _deletions(rules: Iterable[Rule]) -> list[Command]:
    return [deletion(rule) for rule in rules]


# --- The iptables backend, as lines of iptables-restore ---


def _match_comment(m: Masquerade) -> str:
    return f'-m comment --comment "name: \\"{m.network}\\" id: \\"{m.container_id}\\""'


def jump_line(m: Masquerade, address: CIDR) -> str:
    """Sends what comes from one pod address to the container's chain."""
    return f"-A POSTROUTING -s {address.ip}/{address.ip.bits} {_match_comment(m)} -j {m.chain}"


def setup_lines(m: Masquerade, family: int, rules: Sequence[str] | None, jumps: Iterable[str]) -> list[str]:
    """What is missing for one family; [] if nothing is.

    `rules` are the chain's present ones (None: no chain), `jumps` those of POSTROUTING. The chain is
    written as a whole, for the subnets' ACCEPT must come before MASQUERADE, also those of the container's
    other interfaces.
    """
    addresses = [cidr for cidr in m.addresses if cidr.family == family]
    accepts = [f"-A {m.chain} -d {cidr.network} {_match_comment(m)} -j ACCEPT" for cidr in addresses]
    masquerade = f"-A {m.chain} ! -d {_MULTICAST[family]} {_match_comment(m)} -j MASQUERADE"
    wanted = list(dict.fromkeys((*(rule for rule in rules or () if rule != masquerade), *accepts)))
    wanted.append(masquerade)
    lines = [] if rules is not None and wanted == list(rules) else [f":{m.chain} - [0:0]", *wanted]
    present = set(jumps)
    return [
        *lines,
        *(line for line in dict.fromkeys(jump_line(m, cidr) for cidr in addresses) if line not in present),
    ]


def teardown_lines(chain: str, rules: Iterable[str], own: frozenset[str] | None) -> list[str]:
    """Remove a container's jumps among `rules` (of POSTROUTING), and its chain if no other jump is left.

    `own` are the sources that count as the attachment's (see `sources`); None means all.
    """
    jumps = [rule for rule in rules if rule.endswith(f" -j {chain}")]
    gone = [rule for rule in jumps if own is None or _line_source(rule) in own]
    lines = [f"-D {rule[3:]}" for rule in gone]
    return lines if len(gone) < len(jumps) else [*lines, f"-F {chain}", f"-X {chain}"]


def teardown_chain_commands(
    family: int, chain: str, rules: Iterable[Rule], own: frozenset[str] | None
) -> list[Command]:
    """The same for rules of iptables' nft kind, seen and removed through nftables itself."""
    jumps = [rule for rule in rules if _jump_target(rule) == chain]
    gone = [rule for rule in jumps if own is None or _rule_source(rule) in own]
    commands = _deletions(gone)
    if len(gone) < len(jumps):
        return commands
    place = _NFT_FAMILY[family], "nat", chain
    commands.append(nftables.flush_chain(*place))
    commands.append(nftables.delete("chain", family=place[0], table=place[1], name=chain))
    return commands


def sources(addresses: Iterable[CIDR]) -> frozenset[str] | None:
    """How the jumps of an interface with these addresses look; None (any) if no address is known.

    The reference's older releases wrote the whole subnet as the source, so that form counts too.
    """
    texts: set[str] = set()
    for cidr in addresses:
        texts.update((f"{cidr.ip}/{cidr.ip.bits}", str(cidr.network)))
    return frozenset(texts) or None


def stale_chains(network: str, valid: Iterable[str], rules: Iterable[str]) -> list[str]:
    """Chains of `network` in `rules` (a whole nat table) whose container id is not in `valid`.

    A chain is believed to be ours only if its name is the one that its comment's container id gives.
    """
    mark = f'--comment "name: \\"{network}\\" id: \\"'
    living, found = set(valid), dict[str, None]()
    for rule in rules:
        before, there, after = rule.partition(mark)
        container_id, closed, _ = after.partition('\\"')
        if not (there and closed) or container_id in living:
            continue
        chain = chain_name(network, container_id)
        if before.startswith(f"-A {chain} ") or rule.endswith(f" -j {chain}"):
            found[chain] = None
    return list(found)


def _line_source(rule: str) -> str:
    before, _, after = rule.partition(" -s ")
    return after.partition(" ")[0] if before == "-A POSTROUTING" else ""


def _jump_target(rule: Rule) -> str:
    targets = [expression["jump"]["target"] for expression in rule["expr"] if "jump" in expression]
    return targets[0] if targets else ""


def _rule_source(rule: Rule) -> str:
    for expression in rule["expr"]:
        compared = expression.get("match", {})
        payload = compared.get("left", {}).get("payload", {}) if compared.get("op") == "==" else {}
        if payload.get("field") == "saddr":
            right = compared["right"]
            if isinstance(right, dict):
                return f"{right['prefix']['addr']}/{right['prefix']['len']}"
            return f"{right}/{32 if payload['protocol'] == 'ip' else 128}"
    return ""
