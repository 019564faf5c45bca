"""The facade that plugins use: typed observation, batches across sysctls and dumps, few hops."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from support.observe import descriptors

from pycni.addresses import CIDR, IP
from pycni.errors import CNIError
from pycni.kernel import messages, namespace, netns
from pycni.kernel.namespace import Answer, AnswersLost, Namespace, Setting, check
from pycni.kernel.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from support.netns import NetNS

T = TypeVar("T")


class Hops:
    """A context's `run` without a loop, which counts its calls and the entries into namespaces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self.entries = 0
        inside = netns.inside

        def counted(fd: int, func: Callable[..., Any], *args: Any) -> Any:
            self.entries += 1
            return inside(fd, func, *args)

        monkeypatch.setattr(netns, "inside", counted)

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        self.runs += 1
        return work(*args)

    def since(self) -> tuple[int, int]:
        """(runs, entries) since the last call."""
        seen = self.runs, self.entries
        self.runs = self.entries = 0
        return seen


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waited")


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Hops:
    return Hops(monkeypatch)


def opened(hops: Hops, place: NetNS) -> Iterator[Namespace]:
    fd = netns.open_namespace(str(place.path))
    with Namespace(hops.run, fd, str(place.path)) as ns:
        yield ns
    os.close(fd)


@pytest.fixture
def node(hops: Hops, host: NetNS) -> Iterator[Namespace]:
    yield from opened(hops, host)


@pytest.fixture
def sandbox(hops: Hops, pod: Callable[[], NetNS]) -> Iterator[Namespace]:
    yield from opened(hops, pod())


@pytest.fixture
def pair(node: Namespace, sandbox: Namespace) -> messages.Link:
    """The host side, up, of a pair whose other end, `eth0`, is down in the sandbox."""
    created, found = now(
        node.request(
            [
                messages.new_veth("veth0", "eth0", up=True, peer_netns_fd=sandbox.fd),
                messages.get_link(name="veth0"),
            ]
        )
    )
    check([created, found], "failed to make veth pair")
    return found.links[0]


def test_a_pod_is_set_up_by_one_hop_and_one_entry(
    hops: Hops, sandbox: Namespace, pair: messages.Link
) -> None:
    """Sysctls, addresses, up, routes and the look at the result are one `perform`."""
    index = pair.peer
    hops.since()
    steps = [
        Setting("net/ipv6/conf/eth0/accept_dad", "0"),
        Setting("net/ipv4/conf/eth0/arp_notify", "1"),
        Setting("net/ipv6/conf/eth0/keep_addr_on_down", "1", required=True),
        messages.new_address(index, CIDR.parse("10.1.0.2/16")),
        messages.new_address(index, CIDR.parse("fd01::2/64")),
        messages.set_link(index, up=True),
        messages.new_route(index, CIDR.parse("0.0.0.0/0"), IP.parse("10.1.0.1")),
        messages.new_route(index, CIDR.parse("::/0"), IP.parse("fd01::1")),
        messages.get_link(index),
        messages.dump_addresses(index=index),
        messages.dump_routes(4),
    ]
    answers = now(sandbox.perform(steps))
    assert hops.since() == (1, 1)
    assert [answer.errno for answer in answers] == [0] * len(steps)
    (link,) = answers[8].links
    assert (link.name, link.is_up) == ("eth0", True)
    assert {"10.1.0.2/16", "fd01::2/64"} <= {str(address.cidr) for address in answers[9].addresses}
    assert "0.0.0.0/0" in {str(route.dst) for route in answers[10].routes}


def test_the_socket_is_kept_for_the_next_call(hops: Hops, node: Namespace) -> None:
    """Only the first call enters the namespace, unless there is a sysctl to write."""
    now(node.link("lo"))
    assert hops.since() == (1, 1)
    now(node.link("lo"))
    now(node.addresses())
    assert hops.since() == (2, 0)
    now(node.perform([Setting("net/ipv4/ip_forward", "1"), messages.get_link(1)]))
    assert hops.since() == (1, 1)


def test_here_means_no_entry_at_all(hops: Hops, host: NetNS) -> None:
    """The namespace that the process is in needs no descriptor and no setns."""
    with host.inside(), Namespace(hops.run, here=True) as ns:
        now(ns.write_sysctls([("net/ipv4/ip_forward", "1", True)]))
        assert now(ns.read_sysctls(["net/ipv4/ip_forward"])) == ["1"]
        assert now(ns.link("lo")) is not None
        assert now(ns.call(netns.identity, "/proc/thread-self/ns/net")) == host.ident
        assert hops.since() == (4, 0)


def test_call_runs_anything_inside(node: Namespace, host: NetNS) -> None:
    """Any blocking function finds itself in the namespace."""
    assert now(node.call(netns.identity, "/proc/thread-self/ns/net")) == host.ident


def test_a_failed_step_stops_nothing(node: Namespace) -> None:
    """Requests, dumps and settings each answer in their place, whatever the others did."""
    steps = [
        messages.del_link(4711),
        Setting("net/ipv4/conf/none/arp_notify", "1", required=True),
        Setting("net/ipv4/conf/none/arp_notify", "1"),
        messages.dump_addresses(index=4711),
        messages.new_bridge("br0"),
        Setting("net/ipv4/conf/br0/arp_notify", "1", required=True),
        messages.get_link(name="br0"),
    ]
    answers = now(node.perform(steps))
    assert [answer.errno for answer in answers] == [errno.ENODEV, errno.ENOENT, 0, errno.ENODEV, 0, 0, 0]
    assert answers[1].text == answers[2].text
    assert answers[1].text.startswith("net/ipv4/conf/none/arp_notify=1: ")
    assert answers[6].links[0].name == "br0"
    assert now(node.read_sysctls(["net/ipv4/conf/br0/arp_notify"])) == ["1"]


def test_links_are_found_or_none(node: Namespace, pair: messages.Link) -> None:
    """By name and by index; a missing link is None and no error."""
    assert now(node.link("veth0")) == now(node.link(index=pair.index))
    assert now(node.link("none")) is None
    assert now(node.link("a-name-of-more-than-15")) is None
    assert now(node.link(index=4711)) is None


def test_links_are_listed_by_kind_and_master(node: Namespace, pair: messages.Link) -> None:
    """A kind that no module of the kernel knows has no links; a bridge has its ports."""
    check(now(node.request([messages.new_bridge("br0")])), "bridge")
    bridge = now(node.link("br0"))
    assert bridge is not None
    check(now(node.request([messages.set_link(pair.index, master=bridge.index)])), "port")
    assert {link.name for link in now(node.links())} == {"lo", "veth0", "br0"}
    assert [link.name for link in now(node.links("veth"))] == ["veth0"]
    assert now(node.links("no-such-kind")) == []
    (port,) = now(node.ports(bridge.index))
    assert (port.name, port.port is not None) == ("veth0", True)
    assert now(node.ports(4711)) == []


def test_addresses_and_routes_are_listed_by_family(node: Namespace, pair: messages.Link) -> None:
    """Family and index, family and table; what does not exist is empty."""
    requests = [
        messages.new_address(pair.index, CIDR.parse("10.1.0.1/16")),
        messages.new_address(pair.index, CIDR.parse("fd01::1/64"), nodad=True),
    ]
    check(now(node.request(requests)), "address")
    assert {str(item.cidr) for item in now(node.addresses(pair.index))} >= {"10.1.0.1/16", "fd01::1/64"}
    assert [str(item.cidr) for item in now(node.addresses(pair.index, 4))] == ["10.1.0.1/16"]
    assert {item.cidr.family for item in now(node.addresses(family=6))} == {6}
    assert now(node.addresses(4711)) == []
    assert {str(route.dst) for route in now(node.routes(4, 255))} >= {"10.1.0.1/32"}
    assert now(node.routes(table=777)) == now(node.routes(4, 777)) == []


def test_sysctls_that_cannot_be_read_are_none(node: Namespace) -> None:
    """One missing name does not hide the others."""
    assert now(node.read_sysctls(["net/none", "net/ipv4/ip_forward"])) == [None, "0"]


def test_a_required_sysctl_that_fails_is_an_error(node: Namespace) -> None:
    """All are tried; then the first required failure is raised with name and value."""
    settings = [
        ("net/ipv4/conf/none/arp_notify", "0", False),
        ("net/ipv4/conf/none/arp_notify", "1", True),
        ("net/ipv4/ip_forward", "1", True),
    ]
    with pytest.raises(CNIError) as caught:
        now(node.write_sysctls(settings))
    assert (
        caught.value.msg == "failed to set sysctl net/ipv4/conf/none/arp_notify=1: no such file or directory"
    )
    assert now(node.read_sysctls(["net/ipv4/ip_forward"])) == ["1"]
    now(node.write_sysctls(settings[::2]))


def test_check_raises_the_first_failure() -> None:
    """What was attempted, the errno's text, and the kernel's words as details; allowed errnos pass."""
    answers = [Answer(), Answer(errno.EEXIST, "said the kernel"), Answer(errno.ENODEV)]
    with pytest.raises(CNIError) as caught:
        check(answers, 'failed to set "eth0" up')
    assert caught.value.msg == 'failed to set "eth0" up: file exists'
    assert "said the kernel" in caught.value.details
    with pytest.raises(CNIError, match="no such device"):
        check(answers, "x", allow=(errno.EEXIST,))
    check(answers, "x", allow=(errno.EEXIST, errno.ENODEV))
    check([], "x")


def test_a_namespace_that_cannot_be_entered_is_an_error(hops: Hops) -> None:
    """A closed descriptor says so; nothing is left open."""
    before = descriptors()
    with (
        Namespace(hops.run, 9999, "/run/netns/pod") as ns,
        pytest.raises(CNIError, match="error switching to ns"),
    ):
        now(ns.link("lo"))
    assert descriptors() <= before


def test_a_socket_with_lost_answers_is_not_used_again(
    hops: Hops, host: NetNS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call opens another one."""
    sockets: list[NetlinkSocket] = []
    fd = netns.open_namespace(str(host.path))
    with monkeypatch.context() as patch:
        patch.setattr(namespace, "NetlinkSocket", lambda: NetlinkSocket(receive_buffer=4608))
        ns = Namespace(hops.run, fd, sockets=sockets)
        with pytest.raises(AnswersLost):
            now(ns.request([messages.get_link(1)] * 100))
    assert sockets == []
    assert len(now(ns.request([messages.get_link(1)] * 100))) == 100
    assert len(sockets) == 1
    sockets.pop().close()
    os.close(fd)


def test_shared_sockets_outlive_the_namespace(hops: Hops, host: NetNS) -> None:
    """Two objects for one place take sockets from one list; closing one leaves them to the other."""
    sockets: list[NetlinkSocket] = []
    with host.inside():
        with Namespace(hops.run, here=True, sockets=sockets) as first:
            now(first.link("lo"))
        assert len(sockets) == 1
        now(Namespace(hops.run, here=True, sockets=sockets).link("lo"))
    assert len(sockets) == 1
    sockets.pop().close()


def test_threads_may_use_one_namespace_at_once(node: Namespace) -> None:
    """Eight threads that make, find and remove links at once each get their own answers."""
    failures: list[object] = []

    def work(number: int) -> None:
        name = f"b{number}"
        try:
            for _ in range(10):
                made = now(node.request([messages.new_bridge(name), messages.get_link(name=name)]))
                found = now(node.link(name))
                gone = now(node.request([messages.del_link(name=name)]))
                if not (made[0].ok and found and made[1].links == (found,) and gone[0].ok):
                    failures.append((made, found, gone))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {link.name for link in now(node.links())} == {"lo"}
