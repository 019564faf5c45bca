"""Masquerade and spoof-check rules in a real kernel: what arrives, what goes, what is never created."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.golden import load
from support.observe import firewall_state

from pycni.addresses import CIDR
from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel import nftables, process
from pycni_bridge import masquerade, spoofcheck
from pycni_bridge.masquerade import Masquerade

if TYPE_CHECKING:
    from support.netns import NetNS

POD = Masquerade("goldnet", "pod-one", "eth0", (CIDR.parse("10.40.0.2/24"), CIDR.parse("fd40::2/64")))
SECOND = POD.replace(ifname="net1", addresses=(CIDR.parse("10.41.0.2/24"), CIDR.parse("fd40::3/64")))
OTHER = POD.replace(container_id="pod-two", addresses=(CIDR.parse("10.40.0.3/24"), CIDR.parse("fd40::4/64")))
MAC = bytes.fromhex("0a4000000005")
REF = "pod-one-eth0"
EMPTY_IPTABLES: dict[str, list[str]] = {"iptables nat": [], "ip6tables nat": []}


@pytest.fixture
def node(new_netns: Callable[[str], NetNS]) -> Iterator[NetNS]:
    """A namespace without any rule, in which this thread is."""
    netns = new_netns("fw")
    with netns.inside():
        yield netns


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs that are executed."""
    names: list[str] = []
    run = process.run

    def counted(path: str, *rest: Any) -> Any:
        names.append(path.rpartition("/")[2])
        return run(path, *rest)

    monkeypatch.setattr(process, "run", counted)
    return names


@pytest.fixture(params=["library", "process"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test through libnftables and, as on a node that has none, through `nft` processes."""
    if request.param == "process":
        monkeypatch.setattr(nftables, "_library", False)
    return str(request.param)


@pytest.fixture(params=["nft", "legacy"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Run the test with `iptables` being either kind."""
    for name in ("iptables", "ip6tables"):
        for suffix in ("", "-restore", "-save"):
            (tmp_path / f"{name}{suffix}").symlink_to(f"/usr/sbin/xtables-{request.param}-multi")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    return str(request.param)


def ruleset(netns: NetNS) -> list[Any]:
    """All of nftables, which is where iptables' nft kind is seen too."""
    rows = netns.json("nft", "-j", "list", "ruleset")["nftables"]
    return [row for row in rows if "metainfo" not in row]


def nat_lines(netns: NetNS, kind: str) -> dict[str, list[str]]:
    """What one kind of iptables has under CNI names, as the recordings have it."""
    lines = {}
    for name in ("iptables", "ip6tables"):
        text = netns.run(f"/usr/sbin/{name}-{kind}-save", "-t", "nat").stdout.decode()
        lines[f"{name} nat"] = [line.removesuffix(" [0:0]") for line in text.splitlines() if "CNI-" in line]
    return lines


def recorded(case: str, step: int) -> dict[str, Any]:
    """nftables, comments and iptables after a recorded step."""
    state = load(f"features/{case}")["steps"][step - 1]["state"]
    return {key: state[key] for key in ("nft", "nft_comments", "iptables")}


# --- Masquerading, nftables backend ---


@pytest.mark.row("plugins", 74, 148)
@pytest.mark.usefixtures("way")
def test_nftables_rules_are_the_recorded_ones(node: NetNS) -> None:
    """After each of two ADDs and DELs the kernel holds what the reference's calls left."""
    case = "masq-nftables-dual-stack-two-pods"
    steps = load(f"features/{case}")["steps"]
    second = POD.replace(
        container_id="pod-two", addresses=(CIDR.parse("10.40.0.3/24"), CIDR.parse("fd40::3/64"))
    )
    work: dict[tuple[str, str], Callable[[], object]] = {
        ("ADD", "pod-one"): lambda: masquerade.setup(POD, "nftables"),
        ("ADD", "pod-two"): lambda: masquerade.setup(second, "nftables"),
        ("DEL", "pod-one"): lambda: masquerade.teardown(POD),
        ("DEL", "pod-two"): lambda: masquerade.teardown(second),
    }
    done = 0
    for number, step in enumerate(steps, 1):
        act = work.get((step["env"]["CNI_COMMAND"], step["env"]["CNI_CONTAINERID"]))
        if act is not None:
            act()
            assert firewall_state(node) == recorded(case, number)
            done += 1
    assert done == 4


@pytest.mark.usefixtures("way")
def test_nftables_set_up_twice_is_set_up_once(node: NetNS) -> None:
    """Also when the first one left another address."""
    masquerade.setup(POD.replace(addresses=(CIDR.parse("10.40.0.77/24"),)), "nftables")
    masquerade.setup(POD, "nftables")
    first = firewall_state(node)
    masquerade.setup(POD, "nftables")
    assert firewall_state(node) == first
    assert masquerade.unmasqueraded(POD) == []
    assert len([item for item in first["nft"] if item.get("rule", {}).get("chain") == "masq_checks"]) == 2


def test_set_up_repairs_the_frame(node: NetNS) -> None:
    """Somebody flushed or deleted the base chain: the next ADD puts it back for all pods."""
    masquerade.setup(POD, "nftables")
    whole = firewall_state(node)
    node.run("nft", "flush", "chain", "inet", "cni_plugins_masquerade", "postrouting")
    node.run("nft", "delete", "chain", "inet", "cni_plugins_masquerade", "postrouting")
    masquerade.setup(POD, "nftables")
    assert firewall_state(node) == whole


def test_a_whole_address_as_subnet_is_recognised(node: NetNS) -> None:
    """A pod with a /32 is written and found again like any other."""
    m = POD.replace(addresses=(CIDR.parse("10.40.0.2/32"), CIDR.parse("fd40::2/128")))
    for backend in ("nftables", "iptables"):
        masquerade.setup(m, backend)
        assert masquerade.unmasqueraded(m) == []
        before = ruleset(node)
        masquerade.setup(m, backend)
        assert len(ruleset(node)) == len(before)
        masquerade.teardown(m)
        assert masquerade.unmasqueraded(m) == list(m.addresses)


def test_twenty_threads_at_once(node: NetNS) -> None:
    """The agent's worker threads share one context; every rule arrives, and every one goes."""
    pods = [
        POD.replace(container_id=f"pod-{number}", addresses=(CIDR.parse(f"10.40.1.{number}/16"),))
        for number in range(20)
    ]
    for work, left in ((lambda pod: masquerade.setup(pod, "nftables"), 20), (masquerade.teardown, 0)):
        failures: list[BaseException] = []
        threads = [threading.Thread(target=_in_thread, args=(work, pod, failures)) for pod in pods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(masquerade.stale("goldnet")) == left


def _in_thread(work: Callable[[Masquerade], object], pod: Masquerade, failures: list[BaseException]) -> None:
    try:
        work(pod)
    except BaseException as error:  # noqa: BLE001 - reported by the test
        failures.append(error)


def test_processes_race_without_loss(node: NetNS) -> None:
    """One-shot processes do not know of each other: a rule gone at commit is looked for again."""
    code = (
        "import sys\n"
        "from pycni.addresses import CIDR\n"
        "from pycni_bridge import masquerade as m\n"
        "for n in range(10):\n"
        "    address = CIDR.parse(f'10.40.0.{n + 2}/24')\n"
        "    pod = m.Masquerade('goldnet', f'{sys.argv[1]}-{n}', 'eth0', (address,))\n"
        "    m.setup(pod, 'nftables')\n"
        "    m.gc('goldnet', frozenset())\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(number)], stderr=subprocess.PIPE)
        for number in range(4)
    ]
    assert [(child.communicate()[1], child.returncode) for child in children] == [(b"", 0)] * 4
    assert masquerade.stale("goldnet") == []


# --- Masquerading, iptables backend ---


@pytest.mark.row("plugins", 73)
def test_iptables_rules_are_the_recorded_ones(node: NetNS, kind: str, executed: list[str]) -> None:
    """Both families, by one transaction each; a repetition writes nothing."""
    masquerade.setup(POD, "iptables")
    assert nat_lines(node, kind) == recorded("masq-iptables-explicit", 1)["iptables"]
    assert executed.count("iptables-restore") == executed.count("ip6tables-restore") == 1
    executed.clear()
    masquerade.setup(POD, "iptables")
    assert [name for name in executed if name.endswith("-restore")] == []
    assert masquerade.unmasqueraded(POD) == []


@pytest.mark.row("plugins", 72)
def test_iptables_is_the_default_backend(node: NetNS, kind: str) -> None:
    """As recorded."""
    assert masquerade.setup(POD, None) == "iptables"
    assert nat_lines(node, kind) == recorded("masq-backend-default", 1)["iptables"]


@pytest.mark.usefixtures("way")
def test_iptables_rules_go_without_addresses(node: NetNS, kind: str) -> None:
    """The interface may be gone, and nothing else may know what addresses it had."""
    masquerade.setup(POD, "iptables")
    masquerade.setup(OTHER, "iptables")
    masquerade.teardown(POD.replace(addresses=()))
    left = nat_lines(node, kind)
    assert masquerade.unmasqueraded(OTHER) == []
    assert "pod-one" not in str(left)
    masquerade.teardown(OTHER)
    assert nat_lines(node, kind) == EMPTY_IPTABLES


@pytest.mark.usefixtures("way")
def test_two_interfaces_share_a_chain_to_the_last(node: NetNS, kind: str) -> None:
    """Removing one leaves the other masqueraded; removing both leaves nothing. In either order."""
    for first, second in ((POD, SECOND), (SECOND, POD)):
        masquerade.setup(first, "iptables")
        masquerade.setup(second, "iptables")
        assert masquerade.unmasqueraded(first) == masquerade.unmasqueraded(second) == []
        masquerade.teardown(first)
        assert masquerade.unmasqueraded(second) == []
        assert masquerade.unmasqueraded(first) == list(first.addresses)
        masquerade.teardown(second)
        assert nat_lines(node, kind) == EMPTY_IPTABLES


def test_addresses_may_come_from_elsewhere(node: NetNS) -> None:
    """What the caller found on the interface counts like what it found in prevResult."""
    masquerade.setup(POD, "iptables")
    masquerade.setup(SECOND, "iptables")
    masquerade.teardown(POD.replace(addresses=()), POD.addresses)
    assert masquerade.unmasqueraded(SECOND) == []
    assert masquerade.unmasqueraded(POD) == list(POD.addresses)


def test_iptables_rules_go_where_iptables_is_not_installed(
    node: NetNS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nft kind's rules are visible to nftables, which removes them."""
    masquerade.setup(POD, "iptables")
    monkeypatch.setattr(process, "find", lambda name: None)
    masquerade.teardown(POD)
    monkeypatch.undo()
    assert nat_lines(node, "nft") == EMPTY_IPTABLES


def test_either_kind_is_removed_whatever_iptables_is_now(
    node: NetNS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator changed the alternative while pods were running."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind in ("legacy", "nft"):
        for name in ("iptables", "ip6tables"):
            for suffix in ("", "-restore"):
                link = tmp_path / f"{name}{suffix}"
                link.unlink(missing_ok=True)
                link.symlink_to(f"/usr/sbin/xtables-{kind}-multi")
        masquerade.setup(POD, "iptables")
    monkeypatch.undo()
    assert nat_lines(node, "nft") == nat_lines(node, "legacy") != EMPTY_IPTABLES
    masquerade.teardown(POD)
    assert nat_lines(node, "nft") == nat_lines(node, "legacy") == EMPTY_IPTABLES


def test_a_held_lock_fails_in_time(node: NetNS, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Legacy iptables waits for its lock as long as told, then we say "try again later"; nft has no lock."""
    lock = Path("/run/xtables.lock")
    monkeypatch.setattr("pycni.kernel.iptables._WAIT", "--wait=1")
    with subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        if kind == "nft":
            masquerade.setup(POD, "iptables")
        else:
            with pytest.raises(CNIError, match="holding the xtables lock") as caught:
                masquerade.setup(POD, None)
            assert caught.value.code == TRY_AGAIN_LATER
        holder.stdin.close()
    lock.unlink()


# --- Both backends ---


def test_a_node_without_iptables_gets_nftables_rules(node: NetNS, monkeypatch: pytest.MonkeyPatch) -> None:
    """No backend configured, no iptables installed."""
    monkeypatch.setattr(process, "find", lambda name: None)
    assert masquerade.setup(POD, None) == "nftables"
    assert masquerade.unmasqueraded(POD) == []


def test_iptables_that_fails_half_way_leaves_nothing(
    node: NetNS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv4 works, IPv6 does not: nftables does both, and the IPv4 half in iptables is removed."""
    for name in ("iptables", "iptables-restore"):
        (tmp_path / name).symlink_to("/usr/sbin/xtables-nft-multi")
    (tmp_path / "ip6tables").symlink_to("/usr/bin/false")
    (tmp_path / "ip6tables-restore").symlink_to("/usr/bin/false")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert masquerade.setup(POD, None) == "nftables"
    monkeypatch.undo()
    state = firewall_state(node)
    assert state["iptables"] == EMPTY_IPTABLES
    assert state["nft"] == recorded("masq-nftables-dual-stack-two-pods", 1)["nft"]


@pytest.mark.usefixtures("kind")
def test_removal_creates_nothing_and_starts_no_process(node: NetNS, executed: list[str]) -> None:
    """On a node without rules DEL and GC leave it so: no table, no process."""
    masquerade.teardown(POD)
    spoofcheck.teardown(REF)
    assert masquerade.gc("goldnet", frozenset()) == []
    assert masquerade.unmasqueraded(POD.replace(addresses=())) == []
    assert executed == []
    assert ruleset(node) == []
    assert "nat" not in node.run("cat", "/proc/net/ip_tables_names", check=False).stdout.decode()


@pytest.mark.usefixtures("way")
def test_removal_looks_at_both_backends(node: NetNS) -> None:
    """The config changed from one to the other while the pod was running."""
    masquerade.setup(POD, "iptables")
    masquerade.setup(POD, "nftables")
    masquerade.teardown(POD)
    assert firewall_state(node)["iptables"] == EMPTY_IPTABLES
    assert masquerade.stale("goldnet") == []


@pytest.mark.row("plugins", 148)
@pytest.mark.usefixtures("way")
def test_gc_removes_what_has_no_owner(node: NetNS, kind: str) -> None:
    """In both backends, of this network only; what it would remove can be asked before."""
    foreign = OTHER.replace(network="othernet")
    for pod in (POD, OTHER, foreign):
        masquerade.setup(pod, "nftables")
        masquerade.setup(pod, "iptables")
    valid = frozenset({("pod-one", "eth0")})
    stale = masquerade.stale("goldnet", valid)
    assert len(stale) == 4
    assert sum(OTHER.chain in text for text in stale) == 2
    assert sum(OTHER.key in text for text in stale) == 2
    assert masquerade.gc("goldnet", valid) == stale
    assert masquerade.stale("goldnet", valid) == masquerade.gc("goldnet", valid) == []
    for pod in (POD, foreign):
        assert masquerade.unmasqueraded(pod) == []
    assert len(masquerade.stale("othernet")) == 4


def test_a_namespace_change_is_noticed(new_netns: Callable[[str], NetNS]) -> None:
    """Rules go to the namespace of the calling thread, not to the one where the library was first used."""
    one, two = new_netns("fw"), new_netns("fw")
    for netns in (one, two):
        with netns.inside():
            masquerade.setup(POD, "nftables")
    assert firewall_state(one) == firewall_state(two) == recorded("masq-nftables-dual-stack-two-pods", 1)


def test_no_free_descriptor_is_an_error_and_no_end(node: NetNS) -> None:
    """libnftables would end the process; we find out before it does."""
    code = (
        "import os, resource\n"
        "from pycni.kernel import nftables\n"
        "assert nftables.in_process()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "try:\n"
        "    nftables.run([])\n"
        "except nftables.NftError as error:\n"
        "    print(error.msg)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nftables: cannot open a netlink socket: too many open files\n"


def test_a_context_made_early_needs_no_descriptor(node: NetNS) -> None:
    """An agent that prepared at its start goes on working when descriptors run out."""
    code = (
        "import os, resource\n"
        "from pycni.kernel import nftables\n"
        "nftables.prepare()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "nftables.run([nftables.add('table', family='inet', name='t')])\n"
        "print(nftables.run([{'list': {'tables': {}}}])[-1]['table']['name'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "t\n", "")


# --- Spoof check ---


@pytest.mark.row("plugins", 78, 149)
@pytest.mark.usefixtures("way")
def test_spoof_check_rules_are_the_recorded_ones(node: NetNS) -> None:
    """After set-up and after removal; table and base chain stay, as the reference leaves them."""
    steps = load("features/macspoofchk-two-pods-fixed-mac")["steps"]
    template = json.dumps(steps[0]["state"]["nft"]).replace("$VETH1", "veth1")
    spoofcheck.setup("veth1", MAC, REF)
    assert firewall_state(node)["nft"] == json.loads(template)
    assert spoofcheck.refs() == {REF}
    spoofcheck.teardown(REF)
    assert firewall_state(node)["nft"] == steps[-1]["state"]["nft"]
    spoofcheck.teardown(REF)


@pytest.mark.usefixtures("way")
def test_spoof_check_set_up_again_replaces(node: NetNS) -> None:
    """One jump with the new host side, one MAC."""
    spoofcheck.setup("veth1", MAC, REF)
    spoofcheck.setup("veth2", MAC, "pod-two-eth0")
    spoofcheck.setup("veth3", bytes(6), REF)
    text = node.run("nft", "list", "table", "bridge", "nat").stdout.decode()
    assert text.count("iifname") == 2
    assert "veth1" not in text
    assert "ether saddr 00:00:00:00:00:00 return" in text


def test_spoof_check_drift_is_found(node: NetNS) -> None:
    """Nothing to say about what is right; each wrong chain is named."""
    assert len(spoofcheck.drift("veth1", MAC, REF)) == 3
    spoofcheck.setup("veth1", MAC, REF)
    assert spoofcheck.drift("veth1", MAC, REF) == []
    assert "PREROUTING" in spoofcheck.drift("veth2", MAC, REF)[0]
    assert "-mac" in spoofcheck.drift("veth1", bytes(6), REF)[0]


def test_spoof_check_gc_takes_the_named(node: NetNS) -> None:
    """Many refs in one call; others stay, and unknown ones are no error."""
    for number in range(4):
        spoofcheck.setup(f"veth{number}", MAC, f"pod-{number}-eth0")
    spoofcheck.gc(["pod-1-eth0", "pod-3-eth0", "pod-9-eth0"])
    assert spoofcheck.refs() == {"pod-0-eth0", "pod-2-eth0"}
    names = [row["chain"]["name"] for row in ruleset(node) if "chain" in row]
    assert len(names) == 1 + 2 * 2


def test_an_interface_name_may_hold_anything(node: NetNS) -> None:
    """Names travel as data: no character of one is read as nft's language."""
    ref = spoofcheck.reference("pod", 'a";}!#$%{0')
    spoofcheck.setup("veth1", MAC, ref)
    odd = POD.replace(ifname='a";}!#$%{0')
    masquerade.setup(odd, "nftables")
    assert spoofcheck.refs() == {ref}
    assert masquerade.unmasqueraded(odd) == []
    spoofcheck.teardown(ref)
    masquerade.teardown(odd)
    assert spoofcheck.refs() == frozenset()
    assert masquerade.stale("goldnet") == []


def test_spoofed_frames_are_dropped(node: NetNS, new_netns: Callable[[str], NetNS]) -> None:
    """A pod reaches the bridge with its own MAC and with no other."""
    pod = new_netns("pod")
    node.run("ip", "link", "add", "br0", "type", "bridge")
    node.run("ip", "addr", "add", "10.40.0.1/24", "dev", "br0")
    node.run("ip", "link", "set", "br0", "up")
    node.run("ip", "link", "add", "veth1", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    node.run("ip", "link", "set", "veth1", "master", "br0", "up")
    for words in ("link set eth0 address 0a:40:00:00:00:05 up", "addr add 10.40.0.2/24 dev eth0"):
        pod.run("ip", *words.split())
    spoofcheck.setup("veth1", MAC, REF)
    pod.ping("10.40.0.1")
    pod.run("ip", "link", "set", "eth0", "address", "0a:40:00:00:00:06")
    with pytest.raises(AssertionError, match="exit 1"):
        pod.run("ping", "-n", "-c", "1", "-W", "1", "10.40.0.1")
    spoofcheck.teardown(REF)
    pod.ping("10.40.0.1")
