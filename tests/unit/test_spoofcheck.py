"""pycni_bridge.spoofcheck: the rules as data; the kernel's side is in tests/kernel/test_firewall.py."""

from __future__ import annotations

from typing import Any

import pytest
from support.golden import load

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import nftables
from pycni_bridge import spoofcheck

MAC = bytes.fromhex("0a4000000005")
REF = spoofcheck.reference("pod-one", "eth0")


def _entry(handle: int, ref: str) -> dict[str, Any]:
    return {"chain": "PREROUTING", "handle": handle, "comment": f"macspoofchk-{ref}", "expr": []}


@pytest.mark.row("plugins", 149)
def test_rules_are_those_recorded_from_the_reference() -> None:
    """Chains, rules, comments and their order, as the reference's first ADD left them."""
    recorded = load("features/macspoofchk-two-pods-fixed-mac")["steps"][0]["state"]["nft"]
    added = [
        command["add"] for command in spoofcheck.setup_commands("$VETH1", MAC, REF, []) if "add" in command
    ]
    assert added == recorded


def test_a_second_set_up_replaces_the_first() -> None:
    """The jump of the same attachment goes, those of others stay; both chains are emptied."""
    existing = [
        _entry(1, REF),
        _entry(2, "pod-two-eth0"),
        {**_entry(3, ""), "comment": "mine"},
        _entry(4, REF),
    ]
    commands = spoofcheck.setup_commands("veth1", MAC, REF, existing)
    assert [command["delete"]["rule"]["handle"] for command in commands if "delete" in command] == [1, 4]
    flushed = [command["flush"]["chain"]["name"] for command in commands if "flush" in command]
    assert flushed == [f"cni-br-iface-{REF}", f"cni-br-iface-{REF}-mac"]


def test_removal_names_only_what_is_there() -> None:
    """Deleting a chain that does not exist would undo the whole transaction."""
    chain = f"cni-br-iface-{REF}"
    assert spoofcheck.teardown_commands(REF, [], []) == []
    commands = spoofcheck.teardown_commands(REF, [_entry(1, REF)], [chain, "cni-br-iface-pod-two-eth0"])
    place = {"family": "bridge", "table": "nat"}
    assert commands == [
        {"delete": {"rule": {**place, "chain": "PREROUTING", "handle": 1}}},
        {"flush": {"chain": {**place, "name": chain}}},
        {"delete": {"chain": {**place, "name": chain}}},
    ]


def test_both_chains_are_emptied_before_either_is_deleted() -> None:
    """One holds a jump to the other, and the kernel deletes no chain that is jumped to."""
    commands = spoofcheck.teardown_commands(REF, [], [f"cni-br-iface-{REF}", f"cni-br-iface-{REF}-mac"])
    assert [next(iter(command)) for command in commands] == ["flush", "flush", "delete", "delete"]


@pytest.mark.row("plugins", 149)
@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda: spoofcheck.setup("veth1", MAC, REF), "failed to setup spoof-check: nftables: no"),
        (lambda: spoofcheck.teardown(REF), "failed to teardown spoof-check: nftables: no"),
    ],
)
def test_failures_carry_the_references_words(monkeypatch: pytest.MonkeyPatch, work: Any, text: str) -> None:
    """The message begins as the reference's does, the code stays that of the cause."""

    def fail(commands: Any) -> Any:
        error = CNIError("nftables: no", code=TRY_AGAIN_LATER)
        raise error

    monkeypatch.setattr(nftables, "run", fail)
    with pytest.raises(CNIError) as caught:
        work()
    assert caught.value.msg == text
    assert caught.value.code == TRY_AGAIN_LATER
