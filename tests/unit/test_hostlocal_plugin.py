"""host-local's verbs through the skeleton, on a store in a temporary folder: answers and bytes on disk."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pycni.context import Caller, Context
from pycni.skel import handle
from pycni.versions import SUPPORTED
from pycni_hostlocal.plugin import HostLocal

GOLDEN = Path(__file__).parent.parent / "golden"
RECORDINGS = (
    "features/host-local-each-version",
    "features/host-local-exhausted",
    "features/host-local-order-and-reuse",
    "features/host-local-requested-addresses",
    "errors/error-host-local-config",
)


class CutOff(BaseException):
    """Stands for a cancellation."""


class InPlace(Context):
    """Runs everything at once; `cut_off` makes the n-th step end in a cancellation after its effect."""

    def __init__(self, cwd: Path, umask: int = 0o022, cut_off: int = -1) -> None:
        self.caller = Caller(os.getpid(), str(cwd), umask, (0, 0))
        self.lines: list[str] = []
        self.at_work: list[frozenset[tuple[str, str, str]]] = []
        self.shielded = False
        self._cut_off = cut_off
        self._steps = 0

    async def run(self, work: Any, *args: Any) -> Any:
        answer = work(*args)
        self._steps += 1
        if self._steps - 1 == self._cut_off:
            raise CutOff
        return answer

    async def in_flight(self) -> frozenset[tuple[str, str, str]]:
        return self.at_work.pop(0) if self.at_work else frozenset()

    @contextlib.contextmanager
    def _shield(self) -> Any:
        self.shielded = True
        yield

    def shield(self) -> contextlib.AbstractContextManager[object]:
        return self._shield()

    def log(self, text: str) -> None:
        self.lines.append(text)


class Node:
    """A store and calls on it; answers are parsed, `store` is every file's bytes by path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ctx = InPlace(root)

    def call(self, verb: str, owner: str, config: dict[str, Any], **env: str) -> tuple[int, Any]:
        full = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": owner,
            "CNI_NETNS": "/var/run/netns/none",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/nowhere",
            **env,
        }
        stdin = json.dumps({"cniVersion": "1.1.0", "name": "net", **config}).encode()
        coroutine = handle(HostLocal(), full, stdin, self.ctx)
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        reply = stop.value.value
        return reply.status, json.loads(reply.stdout) if reply.stdout else None

    def ok(self, verb: str, owner: str, config: dict[str, Any], **env: str) -> Any:
        status, answer = self.call(verb, owner, config, **env)
        assert status == 0, answer
        return answer

    def error(self, verb: str, owner: str, config: dict[str, Any], **env: str) -> dict[str, Any]:
        status, answer = self.call(verb, owner, config, **env)
        assert status == 1, answer
        assert isinstance(answer, dict)
        return answer

    def addresses(self, owner: str, config: dict[str, Any], **env: str) -> list[str]:
        return [ip["address"] for ip in self.ok("ADD", owner, config, **env)["ips"]]

    @property
    def store(self) -> dict[str, bytes]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}

    def config(self, *subnets: str, **more: Any) -> dict[str, Any]:
        ipam = {
            "type": "host-local",
            "dataDir": str(self.root),
            "ranges": [[{"subnet": text}] for text in subnets],
            **more.pop("ipam", {}),
        }
        return {"ipam": ipam, **more}

    def write(self, name: str, content: bytes, age: float = 0) -> Path:
        path = self.root / "net" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time.time() - age,) * 2)
        return path


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.row("contract", 41, 42)
@pytest.mark.parametrize("name", RECORDINGS)
def test_the_recordings_are_reproduced(name: str, node: Node) -> None:
    """Every recorded step gives the recorded exit status, result or error text, and store."""
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    for number, step in enumerate(case["steps"]):
        stdin = json.dumps(step["stdin"]).replace("$DATADIR", str(node.root)).encode()
        coroutine = handle(HostLocal(), step["env"], stdin, node.ctx)
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        reply = stop.value.value
        assert reply.status == step["exit"], f"step {number}: {reply.stdout!r}"
        if reply.status:
            got, expected = json.loads(reply.stdout), json.loads(step["stdout"])
            assert (got["code"], got["msg"]) == (expected["code"], expected["msg"])
        else:
            assert reply.stdout.decode() == step["stdout"], f"step {number}"
        if "state" in step:
            store = {path: content.decode() for path, content in node.store.items()}
            assert store == step["state"]["store"], f"store after step {number}"


@pytest.mark.row("plugins", 89, 91, 92)
@pytest.mark.parametrize("version", SUPPORTED)
def test_two_families(version: str, node: Node) -> None:
    """Two sets give two addresses in order; their files, and the marks of the round, are the reference's."""
    sets = [
        [{"subnet": "10.1.2.0/24"}, {"subnet": "10.2.2.0/24"}],
        [{"subnet": "2001:db8:1::/64"}],
    ]
    result = node.ok("ADD", "dummy", node.config(ipam={"ranges": sets}, cniVersion=version))
    texts = json.dumps(result)
    for text in ("10.1.2.2/24", "10.1.2.1", "2001:db8:1::2/64", "2001:db8:1::1"):
        assert f'"{text}"' in texts
    assert ("version" in texts.replace("cniVersion", "")) is (version in ("0.3.0", "0.3.1", "0.4.0"))
    assert node.store == {
        "net/lock": b"",
        "net/10.1.2.2": b"dummy\r\neth0",
        "net/2001:db8:1::2": b"dummy\r\neth0",
        "net/last_reserved_ip.0": b"10.1.2.2",
        "net/last_reserved_ip.1": b"2001:db8:1::2",
    }
    node.ok("DEL", "dummy", node.config(ipam={"ranges": sets}, cniVersion=version))
    assert sorted(node.store) == ["net/last_reserved_ip.0", "net/last_reserved_ip.1", "net/lock"]


@pytest.mark.row("plugins", 90)
def test_routes_and_dns_are_copied(node: Node) -> None:
    """Routes come back unchanged, defaults without gateway too; resolvConf becomes the DNS."""
    (node.root / "resolv.conf").write_text("nameserver 192.0.2.3\n")
    routes = [
        {"dst": "0.0.0.0/0"},
        {"dst": "::/0"},
        {"dst": "192.168.0.0/16", "gw": "1.1.1.1", "mtu": 1400, "table": 0, "scope": 253},
        {"dst": "2001:db8:2::5/64", "gw": "2001:db8:3::1", "priority": 7, "advmss": 1300},
    ]
    config = node.config("10.0.0.0/24", ipam={"routes": routes, "resolvConf": "resolv.conf"})
    result = node.ok("ADD", "a", config)
    assert result["routes"] == routes
    assert result["dns"] == {"nameservers": ["192.0.2.3"]}


def test_modes_are_the_callers(node: Node) -> None:
    """Folder 0755, lock 0750, files 0600, less the umask of the caller and not that of this process."""
    before = os.umask(0o007)
    try:
        for umask in (0o022, 0o077, 0o000, 0o027):
            node.ctx = InPlace(node.root, umask)
            folder = node.root / f"u{umask:o}"
            node.ok("ADD", "a", node.config("10.0.0.0/24", ipam={"dataDir": f"{folder}/deep"}))
            modes = {path.name: path.stat().st_mode & 0o7777 for path in (folder, *folder.rglob("*"))}
            for path in (folder, folder / "deep", folder / "deep" / "net"):
                assert modes[path.name] == 0o755 & ~umask
            assert modes["lock"] == 0o750 & ~umask
            assert modes["10.0.0.2"] == modes["last_reserved_ip.0"] == 0o600 & ~umask
    finally:
        os.umask(before)


def test_a_relative_folder_is_the_callers(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dataDir` counts from the caller's directory, wherever this process is."""
    monkeypatch.chdir("/")
    node.ok("ADD", "a", node.config("10.0.0.0/24", ipam={"dataDir": "some/where"}))
    assert "some/where/net/10.0.0.2" in node.store


def test_a_relative_folder_needs_a_directory(node: Node) -> None:
    """If the caller's directory was removed, a relative path is an error, not some other folder."""
    node.ctx.caller = node.ctx.caller.replace(cwd="")
    for verb in ("ADD", "CHECK", "DEL"):
        error = node.error(verb, "a", node.config("10.0.0.0/24", ipam={"dataDir": "some/where"}))
        assert error["msg"] == "open some/where: no such file or directory"


@pytest.mark.row("plugins", 93)
def test_networks_are_apart(node: Node) -> None:
    """One container on two networks has two folders; DEL on one leaves the other's reservation."""
    one, two = (node.config("10.0.0.0/24", name=name) for name in ("mynet0", "mynet1"))
    node.ok("ADD", "c", one)
    node.ok("ADD", "c", two, CNI_IFNAME="eth1")
    node.ok("DEL", "c", one)
    assert "mynet0/10.0.0.2" not in node.store
    assert node.store["mynet1/10.0.0.2"] == b"c\r\neth1"
    node.ok("DEL", "c", two, CNI_IFNAME="eth1")
    assert "mynet1/10.0.0.2" not in node.store


@pytest.mark.row("plugins", 94)
def test_a_repeated_add_is_refused(node: Node) -> None:
    """The same attachment gets no second address; others go on; nothing of the first is lost."""
    config = node.config("10.0.0.0/24")
    assert node.addresses("a", config) == ["10.0.0.2/24"]
    assert "duplicate allocation is not allowed" in node.error("ADD", "a", config)["msg"]
    assert node.addresses("b", config) == ["10.0.0.3/24"]
    assert "duplicate" in node.error("ADD", "a", config, CNI_ARGS="IP=10.0.0.77")["msg"]
    assert node.store["net/10.0.0.2"] == b"a\r\neth0"
    assert "net/10.0.0.77" not in node.store


def test_a_failed_add_frees_only_what_it_took(node: Node) -> None:
    """When a later set fails, what the attachment had before stays reserved."""
    node.write("10.9.0.7", b"a\r\neth0")
    node.write("10.1.0.2", b"x\r\neth0")
    error = node.error("ADD", "a", node.config("10.0.0.0/24", "10.1.0.0/30"))
    assert error["msg"].startswith("failed to allocate for range 1: no IP addresses available in range set")
    assert "x (1)" in error["details"]
    assert "net/10.0.0.2" not in node.store
    assert node.store["net/10.9.0.7"] == b"a\r\neth0"


@pytest.mark.parametrize(
    "config",
    [
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/31"}]]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]], "resolvConf": "/nonexistent"}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]]}, "runtimeConfig": {"ips": ["192.0.2.1"]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]], "routes": [{"gw": "10.0.0.1"}]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]], "routes": [None]}},
        {"ipam": {"ranges": [[None]]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]]}, "args": {"cni": {"ips": [None]}}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.255"}]]}},
    ],
)
def test_a_refused_add_creates_nothing(config: dict[str, Any], node: Node) -> None:
    """A config that cannot be served leaves no folder and no file."""
    config["ipam"]["dataDir"] = str(node.root / "store")
    error = node.error("ADD", "a", config)
    assert error["details"]
    assert list(node.root.iterdir()) == []


def test_a_cancelled_add_keeps_nothing(node: Node) -> None:
    """Cut off right after the reservation, ADD gives the addresses back, shielded."""
    node.ctx = InPlace(node.root, cut_off=0)
    with pytest.raises(CutOff):
        node.call("ADD", "a", node.config("10.0.0.0/24", "fd00::/64"))
    assert node.ctx.shielded
    assert not [name for name in node.store if name.endswith(("0.2", "::2"))]
    node.ctx = InPlace(node.root)
    assert node.addresses("a", node.config("10.0.0.0/24", "fd00::/64")) == ["10.0.0.3/24", "fd00::3/64"]


def test_mac_is_let_through(node: Node) -> None:
    """As the bridge's delegate it sees the bridge's MAC in CNI_ARGS and takes no offence."""
    config = node.config("10.0.0.0/24")
    assert node.addresses("a", config, CNI_ARGS="MAC=02:00:00:00:00:01;IP=10.0.0.9") == ["10.0.0.9/24"]
    assert node.error("ADD", "b", config, CNI_ARGS="MAK=x")["msg"] == 'ARGS: unknown args ["MAK=x"]'


@pytest.mark.row("plugins", 96)
def test_del_of_what_never_was(node: Node) -> None:
    """DEL of an unknown attachment, and on a folder that is not there, succeeds and creates nothing."""
    config = node.config("10.0.0.0/24", ipam={"dataDir": str(node.root / "none")})
    assert node.ok("DEL", "nobody", config) is None
    assert list(node.root.iterdir()) == []
    node.ok("ADD", "a", node.config("10.0.0.0/24"))
    before = node.store
    node.ok("DEL", "nobody", node.config("10.0.0.0/24"))
    assert node.store == before


@pytest.mark.parametrize(
    "broken",
    [
        {"ranges": [[{"subnet": "10.0.0.0/31"}]]},
        {"ranges": "gone"},
        {"routes": 5, "resolvConf": 7, "subnet": 4},
        {"ranges": None},
    ],
)
def test_del_needs_no_valid_config(broken: dict[str, Any], node: Node) -> None:
    """A config that was edited into an invalid one, with bad CNI_ARGS, does not keep DEL from cleaning up."""
    node.ok("ADD", "a", node.config("10.0.0.0/24"))
    node.ok("DEL", "a", node.config(ipam=broken, runtimeConfig=3), CNI_ARGS="rubbish", CNI_NETNS="")
    assert "net/10.0.0.2" not in node.store


def test_del_must_know_the_folder(node: Node) -> None:
    """Without `ipam`, or with a `dataDir` of a wrong type, DEL says what is missing."""
    assert node.error("DEL", "a", {})["msg"] == "IPAM config missing 'ipam' key"
    assert "ipam.dataDir" in node.error("DEL", "a", {"ipam": {"dataDir": 5}})["details"]


@pytest.mark.row("plugins", 95)
def test_legacy_reservations(node: Node) -> None:
    """Files with the bare id go with DEL if there is none of the present form, and count for CHECK."""
    config = node.config("10.0.0.0/24")
    node.write("10.0.0.5", b"a")
    node.ok("CHECK", "a", config)
    node.write("10.0.0.6", b" a\r\neth0\n")
    node.ok("DEL", "a", config)
    assert sorted(node.store) == ["net/10.0.0.5", "net/lock"]
    node.ok("DEL", "a", config)
    assert sorted(node.store) == ["net/lock"]


def test_only_addresses_are_reservations(node: Node) -> None:
    """An id that equals the content of another file does not make that file a reservation of its."""
    config = node.config("10.0.0.0/24")
    node.ok("ADD", "10.0.0.2", config)
    node.write("notes", b"10.0.0.2\r\neth0")
    (node.root / "net" / "10.0.0.40").mkdir()
    (node.root / "net" / "sub").mkdir()
    inner = node.write("sub/10.0.0.9", b"10.0.0.2\r\neth0")
    os.mkfifo(node.root / "net" / "10.0.0.41")
    node.ok("DEL", "10.0.0.2", config)
    node.ok("DEL", "10.0.0.2", config)
    assert {"net/notes", "net/last_reserved_ip.0"} <= set(node.store)
    assert inner.exists()
    assert "net/10.0.0.2" not in node.store
    assert node.error("CHECK", "10.0.0.2", config)["code"] == 999


def test_check(node: Node) -> None:
    """CHECK finds the attachment's reservation or says for which container it is missing; creates nothing."""
    config = node.config("10.0.0.0/24", ipam={"dataDir": str(node.root / "store")})
    error = node.error("CHECK", "nosuch", config)
    assert error["msg"] == "host-local: Failed to find address added by container nosuch"
    assert list(node.root.iterdir()) == []
    node.ok("ADD", "a", config)
    node.ok("CHECK", "a", config)
    assert node.error("CHECK", "a", config, CNI_IFNAME="eth1")["code"] == 999


def test_check_compares_the_addresses_of_prevresult(node: Node) -> None:
    """An address of ours in prevResult must be the attachment's; those of other plugins do not matter."""
    config = node.config("10.0.0.0/24", "fd00::/64")
    result = node.ok("ADD", "a", config)
    foreign = {"address": "192.0.2.7/24"}
    node.ok("CHECK", "a", config | {"prevResult": result | {"ips": [*result["ips"], foreign]}})
    node.ok("CHECK", "a", config | {"prevResult": {"cniVersion": "1.1.0", "ips": [foreign]}})
    node.ok("ADD", "b", config)
    stolen = result | {"ips": [{"address": "10.0.0.3/24"}]}
    error = node.error("CHECK", "a", config | {"prevResult": stolen})
    assert error["msg"].startswith("host-local: 10.0.0.3 of prevResult is not reserved for container a")
    assert "10.0.0.2" in error["details"]


def test_gc_frees_what_has_no_attachment(node: Node) -> None:
    """GC keeps valid attachments, by container for legacy entries, and says what it freed."""
    config = node.config("10.0.0.0/24", "fd00::/64")
    for owner in ("a", "b", "c"):
        node.ok("ADD", owner, config)
    node.write("10.0.0.50", b"a")
    node.write("10.0.0.51", b"b")
    node.write("10.0.0.52", b"", age=3600)
    node.write("10.0.0.53", b"")
    node.write("10.0.0.54", b"a\neth0", age=3600)
    node.write("other", b"b\r\neth0", age=3600)
    valid = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth1"}]
    assert node.ok("GC", "", config | {"cni.dev/valid-attachments": valid}) is None
    kept = {name[4:] for name in node.store} - {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}
    assert kept == {"10.0.0.2", "fd00::2", "10.0.0.50", "10.0.0.53", "other"}
    (line,) = node.ctx.lines
    assert "10.0.0.3" in line


def test_gc_spares_requests_at_work(node: Node) -> None:
    """Whoever is at work when GC begins, or when it is about to remove, keeps its address."""
    config = node.config("10.0.0.0/24", **{"cni.dev/valid-attachments": []})
    for owner in ("a", "b", "c"):
        node.ok("ADD", owner, config)
    node.ctx.at_work = [
        frozenset({("net", "a", "eth0"), ("other", "c", "eth0")}),
        frozenset({("net", "b", "eth0"), ("net", "c", "eth1")}),
    ]
    node.ok("GC", "", config)
    assert {name for name in node.store if name.startswith("net/10.")} == {"net/10.0.0.2", "net/10.0.0.3"}


@pytest.mark.parametrize("members", [{}, {"cni.dev/valid-attachments": None}])
def test_gc_without_a_list_touches_nothing(members: dict[str, Any], node: Node) -> None:
    """A missing or null list is no permission to free everything; an empty one is."""
    config = node.config("10.0.0.0/24")
    node.ok("ADD", "a", config)
    before = node.store
    node.ok("GC", "", config | members)
    assert node.store == before
    node.ok("GC", "", config | {"cni.dev/attachments": []})
    assert "net/10.0.0.2" not in node.store


def test_gc_of_what_never_was(node: Node) -> None:
    """GC on a folder that is not there creates nothing."""
    config = node.config("10.0.0.0/24", ipam={"dataDir": str(node.root / "none")})
    node.ok("GC", "", config | {"cni.dev/valid-attachments": []})
    assert list(node.root.iterdir()) == []


def test_status(node: Node) -> None:
    """STATUS is good while addresses are free, writes nothing, and passes without static ranges."""
    config = node.config("10.0.0.0/30", ipam={"dataDir": str(node.root / "deep" / "store")})
    node.ok("STATUS", "", config)
    node.ok("STATUS", "", node.config())
    assert list(node.root.iterdir()) == []
    error = node.error("STATUS", "", node.config("10.0.0.0/31"))
    assert "too small" in error["msg"]


def test_status_of_a_full_range(node: Node) -> None:
    """A range set without a free address is code 50, with counts and holders; other files do not count."""
    config = node.config("fd00::/64", "10.0.0.0/30")
    node.ok("ADD", "a", config)
    node.write("10.7.7.7", b"x")
    error = node.error("STATUS", "", config)
    assert error["code"] == 50
    assert error["msg"] == "no IP addresses available in range set: 10.0.0.1-10.0.0.2"
    assert "range set 1 has 1 addresses, 1 are held: by a (1)" in error["details"]
    node.ok("DEL", "a", config)
    node.ok("STATUS", "", config)


def test_status_of_an_unusable_folder(node: Node) -> None:
    """A store that can be neither written nor made is code 50 and named."""
    (node.root / "file").write_text("")
    for folder in ("file", "file/deep"):
        path = f"{node.root}/{folder}"
        error = node.error("STATUS", "", node.config("10.0.0.0/24", ipam={"dataDir": path}))
        assert error["code"] == 50
        assert path in error["msg"]
    error = node.error("STATUS", "", node.config("10.0.0.0/24", ipam={"dataDir": "/proc/none"}))
    assert error["code"] == 50


@pytest.mark.parametrize("folder", ["file", "file/deep"])
def test_add_to_an_unusable_folder(folder: str, node: Node) -> None:
    """ADD on a path that is no folder fails with the operation, the path and the reason."""
    (node.root / "file").write_text("")
    error = node.error("ADD", "a", node.config("10.0.0.0/24", ipam={"dataDir": f"{node.root}/{folder}"}))
    assert error["code"] == 999
    assert error["msg"].startswith("mkdir ")
    assert error["msg"].endswith(": not a directory")


@pytest.mark.row("plugins", 130)
def test_ranges_of_every_source(node: Node) -> None:
    """Sets come in the order capability, legacy subnet, ranges; legacy parts without subnet are ignored."""
    config = node.config(
        "10.3.0.0/24",
        ipam={"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.9", "gateway": "10.2.0.254"},
        runtimeConfig={"ipRanges": [[{"subnet": "10.1.0.0/24"}]]},
    )
    assert node.addresses("a", config) == ["10.1.0.2/24", "10.2.0.9/24", "10.3.0.2/24"]
    assert node.addresses("b", node.config("10.4.0.0/24", ipam={"rangeStart": "10.2.0.9"})) == ["10.4.0.2/24"]


@pytest.mark.row("plugins", 99, 101, 131)
def test_requested_addresses_of_every_source_add_up(node: Node) -> None:
    """CNI_ARGS, args.cni.ips and runtimeConfig.ips add up, equal ones collapse, lengths are dropped."""
    config = node.config(
        "10.1.0.0/24",
        "10.2.0.0/24",
        "fd00::/64",
        args={"cni": {"ips": ["10.2.0.7/24", "10.1.0.7"]}},
        runtimeConfig={"ips": ["fd00::7", "::ffff:10.1.0.7"]},
    )
    got = node.addresses("a", config, CNI_ARGS="IP=10.1.0.7/8")
    assert got == ["10.1.0.7/24", "10.2.0.7/24", "fd00::7/64"]
