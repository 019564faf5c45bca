"""pycni_bridge.masquerade: names, rules, decisions; the kernel's side is in tests/kernel/test_firewall.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support.golden import cases, load

from pycni.addresses import CIDR
from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import iptables, nftables
from pycni_bridge import masquerade, masquerade_rules
from pycni_bridge.masquerade import Masquerade

V4, V6 = CIDR.parse("10.40.0.2/24"), CIDR.parse("fd40::2/64")
POD = Masquerade("goldnet", "pod-one", "eth0", (V4, V6))
CHAIN = "CNI-557d67b6fedc518d84ccd67b"
COMMENT = '-m comment --comment "name: \\"goldnet\\" id: \\"pod-one\\""'
JUMP = f"-A POSTROUTING -s 10.40.0.2/32 {COMMENT} -j {CHAIN}"
ACCEPT = f"-A {CHAIN} -d 10.40.0.0/24 {COMMENT} -j ACCEPT"
MASQUERADE = f"-A {CHAIN} ! -d 224.0.0.0/4 {COMMENT} -j MASQUERADE"


# --- Names ---


@pytest.mark.parametrize(
    ("network", "container_id", "ifname", "key"),
    [
        ("unit-test", "one", "eth0", "6fd94d501e58f0aa-287fc69eff0574a2"),
        ("rfpnet", "ca", "eth0", "f1e56e010df5989a-b777f4c58f1ca641"),
    ],
)
def test_the_key_is_the_references(network: str, container_id: str, ifname: str, key: str) -> None:
    """By the key either implementation finds the other's rules."""
    assert Masquerade(network, container_id, ifname).key == key


@pytest.mark.row("plugins", 147)
@pytest.mark.parametrize(
    ("network", "container_id", "chain"),
    [("test", "1234", "CNI-2bbe0c48b91a7d1b8a6753a8"), ("rfpnet", "c1", "CNI-6b3d6229eefc44ab0457f555")],
)
def test_the_chain_is_the_references(network: str, container_id: str, chain: str) -> None:
    """All interfaces of a container on a network have one chain."""
    assert Masquerade(network, container_id, "eth0").chain == chain
    assert Masquerade(network, container_id, "net1").chain == chain


def test_a_comment_is_cut_at_128_bytes_and_never_inside_a_character() -> None:
    """nftables takes no more; half a character would be no text."""
    long = Masquerade("n", "i" * 200, "ethé0" * 3)
    assert len(long.comment.encode()) == 128
    cut = [Masquerade("n" * count, "i" * 80, "é" * 7).comment.encode() for count in range(1, 70)]
    assert {len(comment) for comment in cut} <= {127, 128}
    assert all(
        comment.startswith(Masquerade("n" * n, "i" * 80, "é" * 7).key.encode())
        for n, comment in enumerate(cut, 1)
    )


def test_quotes_do_not_get_into_a_comment() -> None:
    """An interface name may hold a double quote, an nftables comment may not."""
    assert Masquerade("n", "c", 'e"0').comment.endswith(", net: n, if: e0, id: c")


# --- nftables ---


def _recorded_rules() -> list[Any]:
    return [
        pytest.param(
            step["env"],
            step["stdin"]["name"],
            [i["rule"] for i in step["state"]["nft"] if "rule" in i],
            id=f"{case}-{n}",
        )
        for case in cases("features")
        if "masq-nftables" in case
        for n, step in enumerate(load(case)["steps"], 1)
        if step.get("env", {}).get("CNI_COMMAND") == "ADD" and step["exit"] == 0
    ]


@pytest.mark.parametrize(("env", "network", "recorded"), _recorded_rules())
def test_rules_are_those_recorded_from_the_reference(
    env: dict[str, str], network: str, recorded: list[dict[str, Any]]
) -> None:
    """For each recorded ADD: the same expressions and comments, in the same order, the frame included."""
    mine = Masquerade(network, env["CNI_CONTAINERID"], env["CNI_IFNAME"])
    checks = [
        rule for rule in recorded if rule["chain"] == "masq_checks" and rule["comment"].startswith(mine.key)
    ]
    assert checks
    addresses = []
    for rule in checks:
        saddr, daddr, _ = (expression.get("match", {}).get("right") for expression in rule["expr"])
        addresses.append(CIDR.parse(f"{saddr}/{daddr['prefix']['len']}"))
    commands = masquerade_rules.setup_commands(mine.replace(addresses=tuple(addresses)), [])
    assert [command["add"]["rule"] for command in commands] == checks
    frame = [rule for rule in recorded if rule["chain"] == "postrouting"]
    assert [c["add"]["rule"] for c in masquerade_rules.BASE if "rule" in c.get("add", {})] == frame


def _listed(handle: int, comment: str) -> dict[str, Any]:
    return {
        "family": "inet", "table": "cni_plugins_masquerade", "chain": "masq_checks",
        "handle": handle, "comment": comment, "expr": [],
    }  # fmt: skip


def _deleted(commands: list[dict[str, Any]]) -> list[int]:
    return [command["delete"]["rule"]["handle"] for command in commands if "delete" in command]


def test_set_up_replaces_what_an_earlier_attempt_left() -> None:
    """Rules of the same key go in the transaction that brings the new ones; others stay."""
    existing = [_listed(1, POD.comment), _listed(2, "somebody's"), _listed(3, f"{POD.key}, other text")]
    commands = masquerade_rules.setup_commands(POD, existing)
    assert _deleted(commands[:2]) == [1, 3]
    assert ["add" in command for command in commands] == [False, False, True, True]


@pytest.mark.row("plugins", 148)
def test_removal_needs_no_addresses() -> None:
    """The key finds the rules; another interface of the container has another key."""
    other = POD.replace(ifname="net1")
    existing = [_listed(1, POD.comment), _listed(2, other.comment), {**_listed(3, ""), "comment": ""}]
    assert _deleted(masquerade_rules.teardown_commands(POD.replace(addresses=()), existing)) == [1]


def test_rules_without_comment_are_left_alone() -> None:
    """A rule that somebody else added to the chain has no comment at all."""
    foreign = _listed(1, "")
    del foreign["comment"]
    assert masquerade_rules.teardown_commands(POD, [foreign]) == []
    assert masquerade_rules.stale_rules("goldnet", frozenset(), [foreign]) == []


@pytest.mark.row("plugins", 148)
def test_gc_keeps_the_valid_and_other_networks() -> None:
    """Stale is what begins with the network's digits and has no valid key, also where the comment is cut."""
    long = POD.replace(container_id="a" * 64)
    existing = [
        _listed(1, POD.comment),
        _listed(2, POD.replace(ifname="net1").comment),
        _listed(3, POD.replace(network="othernet").comment),
        _listed(4, long.comment),
        _listed(5, POD.replace(container_id="gone").comment),
    ]
    valid = frozenset({("pod-one", "eth0"), ("a" * 64, "eth0")})
    stale = masquerade_rules.stale_rules("goldnet", valid, existing)
    assert [rule["handle"] for rule in stale] == [2, 5]


# --- iptables ---


def test_lines_are_those_recorded_from_the_reference() -> None:
    """For both families, in the order in which iptables-save prints them."""
    recorded = load("features/masq-iptables-explicit")["steps"][0]["state"]["iptables"]
    for family, key in ((4, "iptables nat"), (6, "ip6tables nat")):
        lines = masquerade_rules.setup_lines(POD, family, None, [])
        assert sorted(lines) == sorted(
            line + " [0:0]" if line.startswith(":") else line for line in recorded[key]
        )
        assert [line.split()[0] for line in lines] == [f":{CHAIN}", "-A", "-A", "-A"]


def test_what_is_there_is_not_written_again() -> None:
    """A repeated set-up has nothing to do."""
    assert masquerade_rules.setup_lines(POD, 4, [ACCEPT, MASQUERADE], [JUMP]) == []


def test_a_lost_jump_comes_back_alone() -> None:
    """The chain is not rewritten for it."""
    assert masquerade_rules.setup_lines(POD, 4, [ACCEPT, MASQUERADE], ["-A POSTROUTING -j OTHER"]) == [JUMP]


def test_a_second_interface_keeps_the_firsts_subnet() -> None:
    """The chain is shared: every subnet is accepted before anything is masqueraded."""
    second = POD.replace(ifname="net1", addresses=(CIDR.parse("10.41.0.2/24"),))
    lines = masquerade_rules.setup_lines(second, 4, [ACCEPT, MASQUERADE], [JUMP])
    accept = ACCEPT.replace("10.40.0.0", "10.41.0.0")
    assert lines == [f":{CHAIN} - [0:0]", ACCEPT, accept, MASQUERADE, JUMP.replace("10.40.0.2", "10.41.0.2")]


def test_two_addresses_of_one_subnet_are_accepted_once() -> None:
    """One rule a subnet, one jump an address."""
    m = POD.replace(addresses=(V4, CIDR.parse("10.40.0.3/24")))
    assert masquerade_rules.setup_lines(m, 4, [], []) == [
        f":{CHAIN} - [0:0]", ACCEPT, MASQUERADE, JUMP, JUMP.replace(".2/32", ".3/32"),
    ]  # fmt: skip


FULL_REMOVAL = [f"-F {CHAIN}", f"-X {CHAIN}"]
OTHER_JUMP = JUMP.replace("10.40.0.2", "10.40.0.3")
FOREIGN = "-A POSTROUTING -s 10.40.0.2/32 -j CNI-somebody-else"
OLD_JUMP = JUMP.replace("10.40.0.2/32", "10.40.0.0/24")


@pytest.mark.parametrize(
    ("jumps", "addresses", "lines"),
    [
        pytest.param(
            [JUMP, FOREIGN], (V4,), [f"-D{JUMP[2:]}", *FULL_REMOVAL], id="last jump: the chain goes"
        ),
        pytest.param([JUMP, OTHER_JUMP], (V4,), [f"-D{JUMP[2:]}"], id="another interface's jump: it stays"),
        pytest.param(
            [JUMP, OTHER_JUMP], (), [f"-D{JUMP[2:]}", f"-D{OTHER_JUMP[2:]}", *FULL_REMOVAL], id="unknown"
        ),
        pytest.param([JUMP, JUMP], (V4,), [f"-D{JUMP[2:]}"] * 2 + FULL_REMOVAL, id="written twice"),
        pytest.param([OLD_JUMP], (V4,), [f"-D{OLD_JUMP[2:]}", *FULL_REMOVAL], id="an older release's form"),
        pytest.param([], (V4,), FULL_REMOVAL, id="a chain without jumps"),
    ],
)
def test_removal_takes_the_jumps_and_the_chain_with_the_last(
    jumps: list[str], addresses: tuple[CIDR, ...], lines: list[str]
) -> None:
    """The same decision from iptables' lines and from nftables' listing of the same rules."""
    own = masquerade_rules.sources(addresses)
    assert masquerade_rules.teardown_lines(CHAIN, jumps, own) == lines
    listing = [_as_listed(number, jump) for number, jump in enumerate(jumps)]
    commands = masquerade_rules.teardown_chain_commands(4, CHAIN, listing, own)
    gone = [
        jumps[command["delete"]["rule"]["handle"]]
        for command in commands
        if "rule" in command.get("delete", {})
    ]
    assert [f"-D{jump[2:]}" for jump in gone] == [line for line in lines if line.startswith("-D")]
    rest = [command for command in commands if "rule" not in command.get("delete", {})]
    assert [next(iter(command)) for command in rest] == (
        ["flush", "delete"] if FULL_REMOVAL[0] in lines else []
    )


def _as_listed(handle: int, jump: str) -> dict[str, Any]:
    """How nft shows an iptables jump."""
    words = jump.split()
    address, _, length = words[3].partition("/")
    right: Any = address if length == "32" else {"prefix": {"addr": address, "len": int(length)}}
    left = {"payload": {"protocol": "ip", "field": "saddr"}}
    return {
        "family": "ip", "table": "nat", "chain": "POSTROUTING", "handle": handle,
        "expr": [
            {"match": {"op": "==", "left": left, "right": right}},
            {"xt": {"type": "match", "name": "comment"}},
            {"counter": {"packets": 0, "bytes": 0}},
            {"jump": {"target": words[-1]}},
        ],
    }  # fmt: skip


def test_gc_believes_a_chain_only_if_name_and_comment_agree() -> None:
    """A comment alone proves nothing: anybody may write one."""
    gone = Masquerade("goldnet", "gone", "eth0", (CIDR.parse("10.40.0.9/24"),))
    table = [
        JUMP, ACCEPT, MASQUERADE,
        *masquerade_rules.setup_lines(gone, 4, None, [])[1:],
        ACCEPT.replace("pod-one", "liar"),
        ACCEPT.replace("goldnet", "othernet").replace("pod-one", "gone"),
        "-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE",
    ]  # fmt: skip
    assert masquerade_rules.stale_chains("goldnet", {"pod-one"}, table) == [gone.chain]
    assert masquerade_rules.stale_chains("goldnet", {"pod-one", "gone"}, table) == []


# --- Which backend ---


@pytest.mark.parametrize("name", ["pf", "", "IPTABLES"])
def test_an_unknown_backend_is_refused_with_the_references_text(name: str) -> None:
    """Before anything is touched."""
    with pytest.raises(CNIError) as caught:
        masquerade.validate_backend(name)
    assert caught.value.msg == f'unknown ipmasq backend "{name}"'
    with pytest.raises(CNIError, match="unknown ipmasq backend"):
        masquerade.setup(POD, name)


Backends = Callable[..., list[str]]


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    """Stand-ins: a list of what was called; `iptables_fails` with an error, `nft` works or not."""

    def make(iptables_fails: CNIError | None = None, nft: bool = True) -> list[str]:
        called: list[str] = []

        def set_up_iptables(m: Sequence[Masquerade]) -> None:
            called.append("iptables")
            if iptables_fails:
                raise iptables_fails

        monkeypatch.setattr(masquerade, "setup_iptables", set_up_iptables)
        monkeypatch.setattr(masquerade, "setup_nftables", lambda m: called.append("nftables"))
        monkeypatch.setattr(masquerade, "teardown", lambda m: called.append("teardown"))
        monkeypatch.setattr(nftables, "works", lambda: nft)
        return called

    return make


@pytest.mark.parametrize("backend", [None, "iptables"])
def test_iptables_is_the_default(backends: Backends, backend: str | None) -> None:
    """As in the reference; nftables is not even asked."""
    called = backends()
    assert masquerade.setup(POD, backend) == "iptables"
    assert called == ["iptables"]


def test_without_working_iptables_it_is_nftables(backends: Backends) -> None:
    """Half-written iptables rules are removed first."""
    called = backends(CNIError("failed to locate iptables"))
    assert masquerade.setup(POD, None) == "nftables"
    assert called == ["iptables", "teardown", "nftables"]


@pytest.mark.parametrize(
    ("error", "nft", "backend"),
    [
        pytest.param(CNIError("no module"), True, "iptables", id="the config insists"),
        pytest.param(CNIError("no module"), False, None, id="neither works: iptables' error"),
        pytest.param(
            CNIError("locked", code=TRY_AGAIN_LATER), True, None, id="a held lock is no broken backend"
        ),
    ],
)
def test_otherwise_iptables_failure_is_the_answer(
    backends: Backends, error: CNIError, nft: bool, backend: str | None
) -> None:
    """The other backend is no answer to every trouble."""
    called = backends(error, nft)
    with pytest.raises(CNIError) as caught:
        masquerade.setup(POD, backend)
    assert caught.value is error
    assert called == ["iptables"]


def test_nftables_by_config_asks_no_iptables(backends: Backends) -> None:
    """A node without iptables is fine."""
    called = backends(CNIError("never"))
    assert masquerade.setup(POD, "nftables") == "nftables"
    assert called == ["nftables"]


# --- Removal goes on past errors ---


@pytest.fixture
def broken_nftables(monkeypatch: pytest.MonkeyPatch) -> None:
    """nftables refuses whatever is asked."""

    def fail(commands: Any) -> Any:
        raise nftables.NftError("Operation not permitted")

    monkeypatch.setattr(nftables, "run", fail)


@pytest.mark.usefixtures("broken_nftables")
def test_a_backend_that_does_not_work_is_no_error_of_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """DEL on a node with neither backend succeeds, and looks through iptables for what nft cannot show."""
    asked: list[str] = []
    monkeypatch.setattr(iptables, "find", lambda family, kind="": f"/{family}-{kind}")
    monkeypatch.setattr(iptables, "legacy_tables", lambda family: frozenset({"nat"}))
    monkeypatch.setattr(iptables, "works", lambda path: False)

    def fail(path: str, table: str, chain: str) -> Any:
        asked.append(path)
        raise CNIError("broken")

    monkeypatch.setattr(iptables, "read_chain", fail)
    masquerade.teardown(POD)
    assert asked == ["/4-legacy", "/4-nft", "/6-legacy", "/6-nft"]


def test_errors_of_working_backends_are_reported_and_do_not_stop_removal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All families are tried; the first error is the one raised."""
    asked: list[str] = []
    monkeypatch.setattr(nftables, "transact", lambda decide: None)
    monkeypatch.setattr(iptables, "find", lambda family, kind="": f"/{family}-{kind}")
    monkeypatch.setattr(iptables, "legacy_tables", lambda family: frozenset({"nat"}))
    monkeypatch.setattr(iptables, "works", lambda path: True)

    def fail(path: str, table: str, chain: str) -> Any:
        asked.append(path)
        raise CNIError(f"broken {path}")

    monkeypatch.setattr(iptables, "read_chain", fail)
    with pytest.raises(CNIError, match="broken /4-legacy"):
        masquerade.teardown(POD)
    assert asked == ["/4-legacy", "/6-legacy"]
