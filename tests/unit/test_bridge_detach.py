"""pycni_bridge.detach: what DEL and GC do in which order, and what they leave alone."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycni.context import Caller, Context
from pycni.errors import CNIError
from pycni.kernel.netlink import Answer
from pycni.main import drive
from pycni.names import host_veth
from pycni.request import Request
from pycni_bridge import firewall, masquerade, spoofcheck
from pycni_bridge.detach import _owners, collect, detach

if TYPE_CHECKING:
    from collections.abc import Callable

IPAM = {"type": "ipam"}
RULES = {"ipMasq": True, "macspoofchk": True, "ipam": IPAM}
LINK = f"link {host_veth('net', 'pod-1', 'eth0')}"
REMOVE_RULES = ["spoof check removal", "masquerade removal"]


class Host:
    """A node whose one link is the attachment's host side."""

    def __init__(self, done: Callable[[str], None]) -> None:
        self._done = done

    async def remove(self, *, name: str = "", index: int = 0) -> Answer:
        self._done(f"link {name or index}")
        return Answer()

    async def links(self, kind: str = "") -> list[Any]:
        return []

    async def request(self, messages: Any) -> list[Answer]:
        assert list(messages) == []
        return []


class FakeContext(Context):
    """Notes what is asked of it; a step of the given name fails."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.caller = Caller(1, "/", 0o022, (0, 0))
        self.delegate = self  # type: ignore[assignment]
        self.steps: list[str] = []
        self._failing = failing

    def _done(self, step: str) -> None:
        self.steps.append(step)
        if step in self._failing:
            raise CNIError(f"{step} failed")

    async def run(self, work: Any, *args: Any) -> Any:
        names = {
            firewall.remove_spoof_check: REMOVE_RULES[0],
            firewall.remove_masquerade: REMOVE_RULES[1],
            spoofcheck.entries: "spoof check entries",
            masquerade.gc: "masquerade gc",
        }
        self._done(names[work])
        return []

    def host(self) -> Any:
        return Host(self._done)

    async def in_flight(self) -> frozenset[tuple[str, str, str]]:
        return frozenset()

    async def delete(self, request: Request, plugin: str) -> None:
        self._done(f"{plugin} DEL")

    async def gc(self, request: Request, plugin: str) -> None:
        self._done(f"{plugin} GC")


def request(**config: Any) -> Request:
    whole = {"cniVersion": "1.1.0", "name": "net", **config}
    stdin = json.dumps(whole).encode()
    return Request("DEL", "net", "1.1.0", whole, stdin, {}, "pod-1", "/run/netns/x", "eth0")


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({}, [LINK]),
        ({"ipMasq": True}, [LINK]),
        ({"ipam": IPAM}, [LINK, "ipam DEL"]),
        ({"ipam": IPAM, "ipMasq": False, "macspoofchk": False}, [LINK, "ipam DEL"]),
        ({"ipam": IPAM, "ipMasq": True}, [LINK, REMOVE_RULES[1], "ipam DEL"]),
        ({"macspoofchk": True}, [LINK, REMOVE_RULES[0]]),
        (RULES, [LINK, *REMOVE_RULES, "ipam DEL"]),
    ],
)
def test_del_does_what_the_config_calls_for(config: dict[str, Any], steps: list[str]) -> None:
    """Link, rules, address, in this order; the firewall is not asked about rules that nobody wanted."""
    ctx = FakeContext()
    drive(detach(request(**config), ctx))
    assert ctx.steps == steps


@pytest.mark.parametrize("first", [LINK, *REMOVE_RULES, "ipam DEL"])
def test_del_goes_on_past_errors(first: str) -> None:
    """Every step is tried, and the first failure is the answer."""
    everything = [LINK, *REMOVE_RULES, "ipam DEL"]
    ctx = FakeContext(tuple(everything[everything.index(first) :]))
    with pytest.raises(CNIError) as caught:
        drive(detach(request(**RULES), ctx))
    assert caught.value.msg == f"{first} failed"
    assert ctx.steps == everything


def test_a_link_that_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's refusal is reported, after rules and address are gone."""

    async def refuse(self: Host, **_which: Any) -> Answer:
        return Answer(errno.EPERM)

    monkeypatch.setattr(Host, "remove", refuse)
    ctx = FakeContext()
    with pytest.raises(CNIError, match="failed to delete the host side: operation not permitted"):
        drive(detach(request(**RULES), ctx))
    assert ctx.steps == [*REMOVE_RULES, "ipam DEL"]


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({}, []),
        ({"ipam": IPAM}, ["ipam GC"]),
        ({"macspoofchk": True}, ["spoof check entries"]),
        (RULES, ["spoof check entries", "masquerade gc", "ipam GC"]),
    ],
)
def test_gc_does_what_the_config_calls_for(config: dict[str, Any], steps: list[str]) -> None:
    """As for DEL; without a list nothing at all is done."""
    ctx = FakeContext()
    drive(collect(request(**config), ctx))
    assert ctx.steps == []
    drive(collect(request(**config, **{"cni.dev/valid-attachments": []}), ctx))
    assert ctx.steps == steps


names = st.text("ab-", min_size=1, max_size=6)


@given(names, names, names)
def test_whose_a_spoof_check_is(network: str, container_id: str, ifname: str) -> None:
    """From the rule's name and interface: exactly the attachment, of exactly its network."""
    ref, veth = spoofcheck.reference(container_id, ifname), host_veth(network, container_id, ifname)
    assert _owners(network, ref, veth) == {(container_id, ifname)}
    assert _owners(f"{network}x", ref, veth) == set()
    assert _owners(network, ref, "veth59724a27") == set()
