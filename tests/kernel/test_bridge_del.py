"""DEL of the bridge plugin: what belongs to the attachment goes, whoever made it; nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bridges import BRIDGE, MASQUERADE, Network, host_local
from support.calls import Call
from support.observe import attachment_leftovers, links, snapshot
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.netns import NetNS

REFERENCE = Path("/usr/lib/cni")
"""Debian's containernetworking-plugins; they know no spec version after 1.0.0."""
IPAM = host_local("10.72.0.0/24", "fd72::/64")
RULES: dict[str, Any] = {"isDefaultGateway": True, "ipMasq": True, "macspoofchk": True, "ipam": IPAM}


@pytest.fixture
def network(call: Call, data_dir: Path) -> Callable[..., Network]:
    """A network of the given keys on this test's node and store."""
    return lambda **config: Network(call, data_dir, **config)


@pytest.fixture
def theirs(host: NetNS, data_dir: Path) -> Callable[..., Network]:
    """The same network, called through the reference's plugins."""
    return lambda **config: Network(Call(REFERENCE, host), data_dir, **{"cniVersion": "1.0.0", **config})


@pytest.fixture
def one(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


@pytest.fixture
def two(pod: Callable[[], NetNS]) -> NetNS:
    return pod()


def assert_gone(net: Network, *pods: NetNS) -> None:
    """Nothing of any attachment is left on the node or in the pods."""
    assert attachment_leftovers(net.host, net.data_dir) == []
    for pod in pods:
        assert list(links(pod)) == ["lo"]


def vanish(net: Network, pod: NetNS) -> None:
    """Delete a sandbox and wait until the kernel has taken the pair away too."""
    name = net.host_veth()
    pod.delete()
    until(lambda: name not in links(net.host), "the kernel ends the namespace")


# How a DEL may come: which CNI_NETNS, and whether with prevResult.
WAYS = {
    "as usual": (True, True),
    "without prevResult": (True, False),
    "without namespace": (False, True),
    "with neither": (False, False),
}


@pytest.mark.row("plugins", 23, 72, 73, 74, 78)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_everything_goes(
    mode: str, network: Callable[..., Network], one: NetNS, two: NetNS, way: str, backend: str
) -> None:
    """Link, address and rules go, whatever DEL is told; another pod keeps all of its own; DEL repeats."""
    net = network(ipMasqBackend=backend, **RULES)
    net.add(two, "pod-2")
    alone = net.state(two)
    net.add(one)
    with_netns, with_result = WAYS[way]
    for _ in range(2):
        outcome = net.delete(one if with_netns else "", prev=with_result).ok()
        assert (outcome.stdout, outcome.stderr) == (b"", b"")
        assert net.state(two) == alone
        assert list(links(one)) == ["lo"]
    net.check(two, "pod-2").ok()
    net.delete(two, "pod-2").ok()
    assert_gone(net, one, two)
    del mode


@pytest.mark.row("contract", 31)
@pytest.mark.parametrize("prev", [True, False])
@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_namespace_that_vanished(
    network: Callable[..., Network], one: NetNS, backend: str, prev: bool
) -> None:
    """The kernel took the pair with the namespace; rules and address go by DEL."""
    net = network(ipMasqBackend=backend, **RULES)
    net.add(one)
    vanish(net, one)
    net.delete(one, prev=prev).ok()
    assert_gone(net)


def test_a_namespace_that_lives_on_without_its_path(network: Callable[..., Network], one: NetNS) -> None:
    """A process keeps the namespace alive: the pair is found from the host's side."""
    net = network(**RULES)
    net.add(one)
    sleeper = one.popen("sleep", "600")
    try:
        one.delete()
        assert net.host_veth() in links(net.host)
        net.delete(one).ok()
        assert_gone(net)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_path_that_is_no_namespace(network: Callable[..., Network], one: NetNS, tmp_path: Path) -> None:
    """Our own pair is found without it; where it is needed, DEL says so, but frees the address first."""
    net = network(**RULES)
    net.add(one)
    file = tmp_path / "file"
    file.touch()
    net.delete(str(file)).ok()
    assert_gone(net, one)
    net.add(one)
    net.host.run("ip", "link", "delete", net.host_veth())
    error = net.delete(str(file)).failed()
    assert f'unknown FS magic on "{file}"' in error["msg"]
    assert_gone(net, one)


@pytest.mark.row("plugins", 60)
def test_nothing_to_remove_makes_nothing(network: Callable[..., Network], one: NetNS) -> None:
    """DEL of what never was creates no link, no table, no chain: not even empty ones."""
    net = network(**RULES)
    before = snapshot(net.host)
    net.delete(one).ok()
    net.delete("").ok()
    assert snapshot(net.host) == before
    assert net.host.run("nft", "list", "ruleset").stdout == b""


@pytest.mark.parametrize(
    "spoiled",
    [
        {"mtu": "x"},
        {"hairpinMode": True, "promiscMode": True},
        {"ipMasqBackend": "pf"},
        {"ipMasq": "yes", "macspoofchk": 1},
        {"runtimeConfig": {"mac": "zz"}},
        {"prevResult": {"cniVersion": "7.0.0"}},
        {"prevResult": {"ips": [{"address": "banana"}]}},
        {"bridge": 5},
    ],
)
def test_a_config_that_was_spoiled_since(
    network: Callable[..., Network], one: NetNS, spoiled: dict[str, Any]
) -> None:
    """DEL reads of the config what it needs, and no error elsewhere keeps a pod."""
    net = network(**RULES)
    net.add(one)
    net.changed(**spoiled).delete(one, prev=False).ok()
    assert_gone(net, one)


def test_bad_cni_args_do_not_keep_a_pod(network: Callable[..., Network], one: NetNS) -> None:
    """CNI_ARGS mean nothing to DEL."""
    net = network(**RULES)
    net.add(one)
    net.call("bridge", "DEL", net.config, netns=one, container_id="pod-1", CNI_ARGS="what;ever").ok()
    assert_gone(net, one)


@pytest.mark.parametrize(("before", "after"), [("iptables", "nftables"), ("nftables", "iptables")])
def test_a_backend_that_changed_since(
    network: Callable[..., Network], one: NetNS, before: str, after: str
) -> None:
    """Rules are looked for in both backends."""
    net = network(ipMasqBackend=before, **RULES)
    net.add(one)
    net.changed(ipMasqBackend=after).delete(one).ok()
    assert_gone(net, one)


def test_an_ipam_that_is_gone(network: Callable[..., Network], one: NetNS) -> None:
    """DEL reports it, after links and rules have gone; when it is back, a repeated DEL frees the address."""
    net = network(**RULES)
    net.add(one)
    without = net.changed(ipam={**net.config["ipam"], "type": "nosuch"})
    error = without.delete(one).failed(999)
    assert error["msg"].startswith('failed to find plugin "nosuch" in path [')
    assert list(links(one)) == ["lo"]
    assert attachment_leftovers(net.host, net.data_dir) == [
        "reservation net/10.72.0.2",
        "reservation net/fd72::2",
    ]
    net.delete(one).ok()
    assert_gone(net, one)


def test_del_of_another_network_or_container(network: Callable[..., Network], one: NetNS) -> None:
    """Neither the name of the interface nor the path of the sandbox is enough to be meant."""
    net = network(ipMasqBackend="nftables", **RULES)
    net.add(one)
    before = net.state(one)
    net.delete(one, "pod-9", prev=False).ok()
    network(name="other", **{key: RULES[key] for key in RULES if key != "macspoofchk"}).delete(one).ok()
    net.delete(one, "pod-1", "eth7").ok()
    assert net.state(one) == before
    net.check(one).ok()


# --- What bears the interface's name and is not ours ---


def replace_by_bridge(pod: NetNS, _host: NetNS, _third: NetNS) -> None:
    pod.run("ip", "link", "add", "eth0", "type", "bridge")


def replace_by_pair_within(pod: NetNS, _host: NetNS, _third: NetNS) -> None:
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")


def replace_by_pair_to_elsewhere(pod: NetNS, _host: NetNS, third: NetNS) -> None:
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", third.path)


def replace_by_pair_to_the_host(pod: NetNS, host: NetNS, _third: NetNS) -> None:
    host.run("ip", "link", "add", "admins", "type", "veth", "peer", "name", "eth0", "netns", pod.path)


@pytest.mark.parametrize("prev", [True, False])
@pytest.mark.parametrize(
    "replace",
    [
        replace_by_bridge,
        replace_by_pair_within,
        replace_by_pair_to_elsewhere,
        replace_by_pair_to_the_host,
    ],
)
def test_a_stranger_under_the_interfaces_name(
    network: Callable[..., Network],
    one: NetNS,
    two: NetNS,
    host: NetNS,
    replace: Callable[[NetNS, NetNS, NetNS], None],
    prev: bool,
) -> None:
    """The pod's link was replaced by somebody: that one stays, everything of ours goes."""
    net = network(**RULES)
    net.add(one)
    one.run("ip", "link", "delete", "eth0")
    replace(one, host, two)
    there = [snapshot(place)["links"] for place in (one, two)]
    net.delete(one, prev=prev).ok()
    assert [snapshot(place)["links"] for place in (one, two)] == there
    assert set(attachment_leftovers(host, net.data_dir)) <= {"link admins"}
    assert ("admins" in links(host)) is (replace is replace_by_pair_to_the_host)


def test_equal_indexes_are_not_enough(
    theirs: Callable[..., Network], network: Callable[..., Network], one: NetNS, two: NetNS, pod: Any
) -> None:
    """A pod's link leads elsewhere, by indexes that are those of another pod's pair: that pair stays."""
    made = theirs(**RULES)
    made.add(two, "pod-2")
    host_side, end = links(made.host)[made.host_veth("pod-2")], links(two)["eth0"]
    third = pod()
    ours = network(cniVersion="1.0.0", **RULES)
    one.run(
        *("ip", "link", "add", "eth0", "index", str(end["ifindex"]), "type", "veth"),
        *("peer", "name", "eth0", "index", str(host_side["ifindex"]), "netns", str(third.path)),
    )
    ours.delete(one, prev=False).ok()
    assert made.host_veth("pod-2") in links(made.host)
    assert "eth0" in links(one)
    made.delete(two, "pod-2").ok()


def test_a_renamed_pod_link_goes(network: Callable[..., Network], one: NetNS) -> None:
    """The pair is known by its host side, so it goes although the pod has another name for it."""
    net = network(**RULES)
    net.add(one)
    one.run("ip", "link", "set", "eth0", "down")
    one.run("ip", "link", "set", "eth0", "name", "eth5")
    net.delete(one).ok()
    assert_gone(net, one)


# --- Pods of the reference, and ours for the reference ---


@pytest.mark.parametrize("way", ["as usual", "without prevResult", "without namespace"])
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_ours_removes_what_the_reference_made(
    theirs: Callable[..., Network],
    network: Callable[..., Network],
    one: NetNS,
    two: NetNS,
    way: str,
    version: str,
) -> None:
    """Link, iptables and spoof-check rules, and the address of a pod that the reference's bridge added."""
    made = theirs(cniVersion=version, **RULES)
    made.add(two, "pod-2")
    alone = made.state(two)
    made.add(one)
    ours = network(cniVersion=version, **RULES)
    ours.results = made.results
    with_netns, with_result = WAYS[way]
    for _ in range(2):
        ours.delete(one if with_netns else "", prev=with_result).ok()
        assert ours.state(two) == alone
        assert list(links(one)) == ["lo"]
    made.delete(two, "pod-2").ok()
    assert_gone(ours, one, two)


@pytest.mark.parametrize("prev", [True, False])
def test_ours_after_the_references_pod_vanished(
    theirs: Callable[..., Network], network: Callable[..., Network], one: NetNS, prev: bool
) -> None:
    """The reference would leave its rules behind; ours finds them by their names."""
    made = theirs(**RULES)
    made.add(one)
    vanish(made, one)
    ours = network(cniVersion="1.0.0", **RULES)
    ours.results = made.results
    ours.delete(one, prev=prev).ok()
    assert_gone(ours)


def test_ours_does_not_guess_the_references_link(
    theirs: Callable[..., Network], network: Callable[..., Network], one: NetNS
) -> None:
    """Without namespace and prevResult nothing tells whose the link is: it stays, rules and address go."""
    made = theirs(**RULES)
    made.add(one)
    ours = network(cniVersion="1.0.0", **RULES)
    ours.delete("", prev=False).ok()
    assert attachment_leftovers(ours.host, ours.data_dir) == [f"link {made.host_veth()}"]


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_the_reference_removes_what_ours_made(
    theirs: Callable[..., Network], network: Callable[..., Network], one: NetNS, two: NetNS, version: str
) -> None:
    """With iptables masquerading and the spoof check a pod of ours goes without a trace."""
    ours = network(cniVersion=version, ipMasqBackend="iptables", **RULES)
    assert ours.try_add(two, "pod-2").status == 0
    alone = ours.state(two)
    ours.try_add(one).ok()
    reference = theirs(cniVersion=version, **RULES)
    reference.delete(one, prev=False).ok()
    assert ours.state(two) == alone
    assert list(links(one)) == ["lo"]
    reference.delete(two, "pod-2", prev=False).ok()
    assert_gone(ours, one, two)


def test_pods_of_both_at_once(
    theirs: Callable[..., Network], network: Callable[..., Network], one: NetNS, two: NetNS
) -> None:
    """On one bridge and one store they reach each other, and each goes without harm to the other."""
    made, ours = theirs(**RULES), network(cniVersion="1.0.0", ipMasqBackend="iptables", **RULES)
    made.add(one)
    ours.add(two, "pod-2")
    assert made.ips() + ours.ips("pod-2") == ["10.72.0.2", "fd72::2", "10.72.0.3", "fd72::3"]
    for place, addresses in ((one, ours.ips("pod-2")), (two, made.ips())):
        for address in addresses:
            place.ping(address)
    made.delete(one).ok()
    ours.check(two, "pod-2").ok()
    ours.delete(two, "pod-2").ok()
    assert_gone(ours, one, two)
    assert links(ours.host)[BRIDGE]["address"] != "00:00:00:00:00:00"
    assert ours.rules(MASQUERADE) == []
