"""host-local beside a model: any order of the verbs, and of ADDs and DELs that die half-way.

The model knows lists of addresses and who holds them, and nothing of files. A request that dies does so in a
process of its own, at one of its system calls; the next ones are served by this process, whose memory of the
store is then out of date.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pycni.testing.fake import FakeNode
from pycni_hostlocal.plugin import HostLocal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycni.skel import Reply

OWNERS = st.tuples(st.sampled_from(["one", "two", "three", "four"]), st.sampled_from(["eth0", "eth1"]))
EFFECTS = ("open", "link", "unlink", "rename", "mkdir", "write", "pwrite", "ftruncate", "utime", "fchmod")

# Small enough to run full. A range's own gateway may lie inside it, at its end, or outside of it.
RANGES: dict[str, list[list[dict[str, str]]]] = {
    "one": [[{"subnet": "10.1.0.0/29"}]],
    "alternatives": [
        [
            {"subnet": "10.1.0.0/30"},
            {
                "subnet": "10.2.0.0/28",
                "rangeStart": "10.2.0.4",
                "rangeEnd": "10.2.0.6",
                "gateway": "10.2.0.5",
            },
        ]
    ],
    "dual stack": [[{"subnet": "10.1.0.0/30"}], [{"subnet": "fd00::/125"}]],
    "edges": [
        [{"subnet": "10.3.0.0/30", "rangeStart": "10.3.0.0", "rangeEnd": "10.3.0.3", "gateway": "10.3.0.9"}]
    ],
}
ADDRESSES = st.sampled_from(
    ["10.1.0.1", "10.1.0.2", "10.1.0.5", "10.2.0.5", "10.2.0.6", "fd00::3", "10.3.0.0", "10.9.9.9"]
)


class Model:
    """Who holds which address of which set, and where each set's round stands."""

    def __init__(self, sets: list[list[dict[str, str]]]) -> None:
        self.sets = [[address for each in ranges for address in _addresses(each)] for ranges in sets]
        self.gateways = [{_gateway(each) for each in ranges} for ranges in sets]
        self.held: dict[str, tuple[str, str]] = {}
        self.last: dict[int, str] = {}

    def given(self, index: int) -> list[str]:
        """What set number `index` can give at all."""
        return [address for address in self.sets[index] if address not in self.gateways[index]]

    def full(self, index: int) -> bool:
        return all(address in self.held for address in self.given(index))

    def picks(self, owner: tuple[str, str], requested: list[str]) -> tuple[list[str], bool]:
        """The addresses that an ADD gets in set order, and whether it succeeds with them."""
        left, chosen = list(dict.fromkeys(requested)), list[str]()
        for index, every in enumerate(self.sets):
            asked = next((address for address in left if address in every), None)
            if asked is not None:
                left.remove(asked)
            if any(self.held.get(address) == owner for address in every):
                return chosen, False
            free = [asked] if asked is not None else self._round(index)
            pick = next((one for one in free if one in self.given(index) and one not in self.held), None)
            if pick is None:
                return chosen, False
            chosen.append(pick)
        return chosen, not left

    def _round(self, index: int) -> list[str]:
        every, last = self.sets[index], self.last.get(index)
        start = every.index(last) + 1 if last in every else 0
        return every[start:] + every[:start]

    def hopeless(self, requested: list[str]) -> bool:
        """Whether no store at all could serve the request."""
        left = list(dict.fromkeys(requested))
        for every in self.sets:
            asked = next((address for address in left if address in every), None)
            if asked is not None:
                left.remove(asked)
        return bool(left)


def _addresses(each: dict[str, str]) -> list[str]:
    net = ipaddress.ip_network(each["subnet"])
    end = net[-2] if net.version == 4 else net[-1]
    low, high = int(net[1]), int(end)
    low = int(ipaddress.ip_address(each["rangeStart"])) if "rangeStart" in each else low
    high = int(ipaddress.ip_address(each["rangeEnd"])) if "rangeEnd" in each else high
    return [str(type(net[0])(value)) for value in range(low, high + 1)]


def _gateway(each: dict[str, str]) -> str:
    return each.get("gateway") or str(ipaddress.ip_network(each["subnet"])[1])


class Allocation(RuleBasedStateMachine):
    """Requests to a store of its own; each rule compares what it did with the model."""

    @initialize(ranges=st.sampled_from(sorted(RANGES)))
    def begin(self, ranges: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pycni-allocation-"))
        self.store = self.folder / "net"
        self.ranges = RANGES[ranges]
        self.model = Model(self.ranges)
        self.node = FakeNode()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, verb: str, owner: tuple[str, str] = ("x", "y"), **more: Any) -> Reply:
        config = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "host-local",
            "ipam": {"type": "host-local", "dataDir": str(self.folder), "ranges": self.ranges},
            **more,
        }
        names = {"CNI_CONTAINERID": owner[0], "CNI_IFNAME": owner[1], "CNI_NETNS": "/not/looked/at"}
        return self.node.call(HostLocal(), verb, config, **names)

    def files(self) -> dict[str, str]:
        if not self.store.exists():
            return {}
        return {path.name: path.read_bytes().decode() for path in self.store.iterdir()}

    @rule(owner=OWNERS, requested=st.lists(ADDRESSES, max_size=2))
    def add(self, owner: tuple[str, str], requested: list[str]) -> None:
        """ADD gives what the model says, or fails when it says so, and then keeps nothing."""
        picks, good = self.model.picks(owner, requested)
        unread = self.model.hopeless(requested) and not self.store.exists()
        reply = self.call("ADD", owner, args={"cni": {"ips": requested}})
        assert (reply.status == 0) == good, reply.stdout.decode()
        if good:
            ips = [ip["address"].partition("/")[0] for ip in json.loads(reply.stdout)["ips"]]
            assert ips == picks
            self.model.held |= dict.fromkeys(picks, owner)
        if not unread:
            self.model.last |= dict(enumerate(picks))

    @rule(owner=OWNERS)
    def delete(self, owner: tuple[str, str]) -> None:
        """DEL frees what the attachment holds, and nothing else."""
        assert self.call("DEL", owner).status == 0
        self.model.held = {address: who for address, who in self.model.held.items() if who != owner}

    @rule(owner=OWNERS)
    def check(self, owner: tuple[str, str]) -> None:
        """CHECK succeeds if the attachment holds an address."""
        assert (self.call("CHECK", owner).status == 0) == (owner in self.model.held.values())

    @rule()
    def status(self) -> None:
        """STATUS fails with code 50 exactly when some set is full."""
        reply = self.call("STATUS")
        full = any(self.model.full(index) for index in range(len(self.model.sets)))
        assert (reply.status, json.loads(reply.stdout or b"{}").get("code")) == (
            (1, 50) if full else (0, None)
        )

    @rule(valid=st.sets(OWNERS, max_size=4))
    def gc(self, valid: set[tuple[str, str]]) -> None:
        """GC frees what no valid attachment holds."""
        attachments = [{"containerID": name, "ifname": ifname} for name, ifname in valid]
        assert self.call("GC", **{"cni.dev/valid-attachments": attachments}).status == 0
        self.model.held = {address: who for address, who in self.model.held.items() if who in valid}

    @rule(owner=OWNERS, effect=st.integers(0, 14))
    def die_adding(self, owner: tuple[str, str], effect: int) -> None:
        """Of an ADD that dies at some system call a part of its addresses may stay, complete and its own."""
        picks, good = self.model.picks(owner, [])
        died = _dies(effect, lambda: self.call("ADD", owner))
        there = self.files()
        left = [address for address in picks if address in there and address not in self.model.held]
        assert left == picks[: len(left)]
        assert good or not left
        assert died or left == (picks if good else [])
        self.model.held |= dict.fromkeys(left, owner)
        for index, pick in enumerate(picks):
            # The hint may be new, old, or half-way: emptied is what a shorter text may look like in between.
            if there.get(f"last_reserved_ip.{index}", "") == pick:
                self.model.last[index] = pick
        self._forget_unfinished_hints(there)

    @rule(owner=OWNERS, effect=st.integers(0, 10))
    def die_deleting(self, owner: tuple[str, str], effect: int) -> None:
        """A DEL that dies at some system call has freed a part of the attachment's addresses, or all."""
        _dies(effect, lambda: self.call("DEL", owner))
        there = self.files()
        self.model.held = {
            address: who for address, who in self.model.held.items() if who != owner or address in there
        }

    def _forget_unfinished_hints(self, there: dict[str, str]) -> None:
        for index, every in enumerate(self.model.sets):
            text = there.get(f"last_reserved_ip.{index}")
            if text is not None and text != self.model.last.get(index):
                self.model.last.pop(index, None)
                assert text not in every or index not in self.model.last
                (self.store / f"last_reserved_ip.{index}").unlink()

    @invariant()
    def the_store_is_the_model(self) -> None:
        """One file per address that is held, with its owner, and one per round; nothing half-written."""
        if not hasattr(self, "model"):
            return
        there = self.files()
        wanted = {address: f"{name}\r\n{ifname}" for address, (name, ifname) in self.model.held.items()}
        wanted |= {f"last_reserved_ip.{index}": address for index, address in self.model.last.items()}
        there.pop("lock", None)
        assert there == wanted


def _dies(effect: int, request: Callable[[], object]) -> bool:
    """Serve a request in a child process that ends before its effect number `effect`; whether it did."""
    pid = os.fork()
    if pid == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                _end_before(effect, patch)
                request()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def _end_before(effect: int, patch: pytest.MonkeyPatch) -> None:
    seen = 0

    def ending(genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            if seen == effect:
                os._exit(9)
            seen += 1
            return genuine(*args, **kwargs)

        return call

    for name in EFFECTS:
        patch.setattr(os, name, ending(getattr(os, name)))


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
