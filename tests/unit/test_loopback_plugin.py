"""The loopback plugin over a sandbox that exists in the test only: `pycni_loopback.plugin`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from pycni.addresses import CIDR
from pycni.context import Caller, Context, SandboxMissing
from pycni.errors import CNIError
from pycni.kernel import messages
from pycni.kernel.messages import Address, Link
from pycni.skel import Reply, handle
from pycni.versions import SUPPORTED
from pycni_loopback.plugin import Loopback, describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IFF_UP = 1
NETNS = "/run/netns/x"


def lo(up: bool) -> Link:
    return Link(
        index=1,
        name="lo",
        kind="",
        mac=bytes(6),
        mtu=65536,
        flags=IFF_UP if up else 0,
        operstate="unknown",
        master=0,
        peer=0,
        peer_netnsid=None,
        promiscuity=0,
        txqlen=1000,
        port=None,
        vlan_filtering=None,
        altnames=(),
    )


def addresses(*texts: str) -> list[Address]:
    return [
        Address(index=1, cidr=CIDR.parse(text), scope=254, flags=128, broadcast=None, label="lo")
        for text in texts
    ]


class Answer:
    """What the kernel says: success, or an errno."""

    def __init__(self, errno: int = 0, found: Sequence[Address] = ()) -> None:
        self.errno = errno
        self.ok = errno == 0
        self.addresses = tuple(found)

    def error(self, what: str) -> CNIError:
        return CNIError(f"{what}: errno {self.errno}")


UP = messages.set_link(1, up=True)
DOWN = messages.set_link(1, up=False)


class FakeSandbox:
    """A `lo` with addresses; IPv6 ones show while it is up."""

    def __init__(self, *, up: bool = False, has: Sequence[str] = ("127.0.0.1/8", "::1/128")) -> None:
        self.up = up
        self.has = has
        self.renamed = False
        self.refuse: bytes | None = None

    async def link(self, name: str = "", index: int = 0) -> Link | None:
        return lo(self.up) if name == "lo" and not self.renamed else None

    async def request(self, requests: Sequence[bytes]) -> list[Answer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: bytes) -> Answer:
        if request == self.refuse:
            return Answer(1)
        if request in (UP, DOWN):
            self.up = request == UP
            return Answer()
        assert request == messages.dump_addresses(index=1)
        return Answer(found=addresses(*(text for text in self.has if self.up or ":" not in text)))


class FakeContext(Context):
    def __init__(self, sandbox: FakeSandbox | None, *, own: bool = False) -> None:
        self.caller = Caller(1, "/", 0o022, (4, 100), 9, (4, 100 if own else 200))
        self._sandbox = sandbox
        self.lines: list[str] = []

    async def sandbox(self) -> Any:
        if self._sandbox is None:
            raise SandboxMissing(NETNS)
        return self._sandbox

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        yield

    def log(self, text: str) -> None:
        self.lines.append(text)


def call(verb: str, ctx: FakeContext, config: dict[str, Any] | None = None, **env: str) -> Reply:
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "pod-1",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "lo",
        "CNI_PATH": "/opt/cni/bin",
        **env,
    }
    full = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback", **(config or {})}
    return asyncio.run(handle(Loopback(), environment, json.dumps(full).encode(), ctx))


def message(reply: Reply) -> str:
    assert reply.status == 1
    text: str = json.loads(reply.stdout)["msg"]
    return text


INTERFACE = {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": NETNS}


@pytest.mark.parametrize("version", SUPPORTED)
def test_add_tells_the_addresses_in_the_shape_of_each_version(version: str) -> None:
    """Better than the reference, which prints the newest shape under the numbers below 1.0.0."""
    sandbox = FakeSandbox()
    reply = call("ADD", FakeContext(sandbox), {"cniVersion": version})
    assert reply.status == 0
    assert sandbox.up
    if version < "0.3.0":
        shape: dict[str, Any] = {"ip4": {"ip": "127.0.0.1/8"}, "ip6": {"ip": "::1/128"}, "dns": {}}
    else:
        labels = ({"version": "4"}, {"version": "6"}) if version < "1.0.0" else ({}, {})
        ips = [
            {**label, "address": text, "interface": 0}
            for label, text in zip(labels, ("127.0.0.1/8", "::1/128"), strict=True)
        ]
        shape = {"interfaces": [INTERFACE], "ips": ips, **({"dns": {}} if version < "1.0.0" else {})}
    assert json.loads(reply.stdout) == {"cniVersion": version, **shape}


def test_add_without_ipv6_tells_the_one_address() -> None:
    """A sandbox without IPv6 has 127.0.0.1 only."""
    reply = call("ADD", FakeContext(FakeSandbox(has=["127.0.0.1/8"])))
    assert json.loads(reply.stdout)["ips"] == [{"address": "127.0.0.1/8", "interface": 0}]


def test_only_the_first_address_of_each_family_is_told() -> None:
    """Further loopback addresses are nobody's business."""
    has = addresses("127.0.0.1/8", "127.0.0.2/8", "::1/128")
    assert [str(ip.address) for ip in describe(lo(True), has, NETNS).ips] == ["127.0.0.1/8", "::1/128"]


@pytest.mark.row("contract", 51)
def test_add_in_a_chain_prints_prev_result_as_it_is() -> None:
    """prevResult, in the config's version, with nothing of lo in it; lo is up."""
    previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 1450}], "unknown": 1}
    sandbox = FakeSandbox()
    reply = call("ADD", FakeContext(sandbox), {"cniVersion": "1.0.0", "prevResult": previous})
    assert json.loads(reply.stdout) == {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mtu": 1450}]}
    assert sandbox.up
    assert json.loads(call("ADD", FakeContext(sandbox), {"prevResult": {}}).stdout) == {"cniVersion": "1.1.0"}


PARSE = "failed to parse prevResult: could not parse prevResult: "


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"type": 5},
            "failed to parse network config: json: cannot unmarshal number into field type of type string",
        ),
        ({"ipam": "x"}, "failed to parse network config: json: cannot unmarshal string into field ipam of"),
        (
            {"ipam": {"type": 1}},
            "failed to parse network config: json: cannot unmarshal number into field ipam.type",
        ),
        ({"dns": []}, "failed to parse network config: json: cannot unmarshal array into field dns"),
        (
            {"capabilities": True},
            "failed to parse network config: json: cannot unmarshal bool into field capa",
        ),
        (
            {"prevResult": []},
            "failed to parse network config: json: cannot unmarshal array into field prevResult",
        ),
        ({"prevResult": {"ips": [{"address": "banana"}]}}, f"{PARSE}invalid CIDR address: banana"),
        (
            {"prevResult": {"cniVersion": "0.4.0"}},
            f"{PARSE}result type supports [1.0.0 1.1.0] but unmarshalled CNI",
        ),
    ],
)
def test_a_bad_config_is_refused_before_lo_is_touched(config: dict[str, Any], text: str) -> None:
    """Code 999 with the reference's prefix, and lo stays as it was."""
    sandbox = FakeSandbox()
    assert message(call("ADD", FakeContext(sandbox), config)).startswith(text)
    assert not sandbox.up


@pytest.mark.parametrize("address", ["10.3.3.3/24", "fd00::1/64"])
@pytest.mark.parametrize("up", [False, True], ids=["was down", "was up"])
def test_a_foreign_address_is_refused_and_lo_left_as_it_was(address: str, up: bool) -> None:
    """ADD is all or nothing: lo goes down again if it was down."""
    sandbox = FakeSandbox(up=up, has=["127.0.0.1/8", address, "::1/128"])
    text = message(call("ADD", FakeContext(sandbox)))
    assert text == f'loopback interface found with non-loopback address "{address.split("/")[0]}"'
    assert sandbox.up is up


def test_add_and_check_need_the_sandbox() -> None:
    """A path that does not exist is an error of both, in the words of the context."""
    for verb in ("ADD", "CHECK"):
        assert "no such file or directory" in message(call(verb, FakeContext(None)))


def test_a_sandbox_without_lo_is_told() -> None:
    """lo may have been renamed; nothing is changed then."""
    sandbox = FakeSandbox()
    sandbox.renamed = True
    for verb in ("ADD", "CHECK", "DEL"):
        assert message(call(verb, FakeContext(sandbox))) == "Link not found"


def test_a_kernel_that_refuses_is_told() -> None:
    """The errno of the failed change is in the message."""
    sandbox = FakeSandbox()
    sandbox.refuse = UP
    assert message(call("ADD", FakeContext(sandbox))) == 'failed to set "lo" up: errno 1'
    sandbox = FakeSandbox(up=True)
    sandbox.refuse = DOWN
    assert message(call("DEL", FakeContext(sandbox))) == 'failed to set "lo" down: errno 1'


def test_del_sets_lo_down_and_can_be_repeated() -> None:
    """Success both times, also with a prevResult that nobody could read."""
    sandbox = FakeSandbox(up=True)
    for _ in range(2):
        assert call("DEL", FakeContext(sandbox), {"prevResult": 5}) == Reply()
        assert not sandbox.up


@pytest.mark.row("contract", 31)
def test_del_without_a_sandbox_succeeds() -> None:
    """An empty CNI_NETNS and a vanished one are fine."""
    assert call("DEL", FakeContext(None), CNI_NETNS="") == Reply()
    assert call("DEL", FakeContext(None)) == Reply()


@pytest.mark.parametrize("override", ["", "1"])
def test_del_never_takes_down_the_caller_s_own_lo(override: str) -> None:
    """Refused with code 8, or, with the override, left alone and told: the host keeps its lo."""
    sandbox = FakeSandbox(up=True)
    ctx = FakeContext(sandbox, own=True)
    reply = call("DEL", ctx, CNI_NETNS_OVERRIDE=override)
    assert sandbox.up
    if override:
        assert reply == Reply()
        assert ctx.lines == [f"loopback: {NETNS} is the caller's own namespace, its lo stays up"]
    else:
        assert json.loads(reply.stdout)["code"] == 8


def test_check_demands_that_lo_is_up() -> None:
    """prevResult does not matter."""
    assert call("CHECK", FakeContext(FakeSandbox(up=True)), {"prevResult": {"ips": 5}}) == Reply()
    assert message(call("CHECK", FakeContext(FakeSandbox()))) == "loopback interface is down"


@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_gc_and_status_have_nothing_to_do(verb: str) -> None:
    """Success without effect."""
    assert call(verb, FakeContext(None)) == Reply()
