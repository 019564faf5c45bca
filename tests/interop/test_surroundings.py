"""Hostile surroundings: the executables work, or fail well, wherever and however a runtime starts them.

Each test runs without an agent and with one, which must then have served every call.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import observe
from support.calls import CALL_SECONDS, Call, Outcome, Running
from support.netns import mount, unmount
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.agents import Agent
    from support.netns import NetNS

MS_RDONLY = 1
REFERENCE = Path("/usr/lib/cni")
PLUGINS = ("bridge", "host-local", "loopback")
SUPPORTED = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
STRANGERS = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONSTARTUP": "/nonexistent/startup.py",
    "PYTHONINSPECT": "1",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "latin-1",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONDEBUG": "1",
    "PYTHONVERBOSE": "1",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONMALLOC": "debug",
    "PYTHONTRACEMALLOC": "5",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPYCACHEPREFIX": "/nonexistent",
    "PYTHONHASHSEED": "no number",
    "PYTHONCASEOK": "1",
    "PYTHONNOUSERSITE": "",
}
"""Variables that change, slow down or break an interpreter that looks at them."""
POISON = ("json", "os", "posix", "pycni", "pycni_bridge", "_socket", "site", "sitecustomize", "encodings")


class Surroundings:
    """A node and calls on it."""

    def __init__(self, call: Call, pod: NetNS, data_dir: Path) -> None:
        self.call = call
        self.pod = pod
        self.data_dir = data_dir
        self.calls = 0

    def config(self, **more: Any) -> dict[str, Any]:
        """Dual stack, a gateway, masquerading and the spoof check: whatever can be executed is."""
        ipam = {"type": "host-local", "dataDir": str(self.data_dir)} | more.pop("ipam", {})
        ipam["ranges"] = [[{"subnet": "10.72.0.0/24"}], [{"subnet": "fd72::/64"}]]
        switches = {"isDefaultGateway": True, "ipMasq": True, "macspoofchk": True}
        head = {"cniVersion": "1.0.0", "name": "odd", "type": "bridge", "bridge": "oddbr0"}
        return head | switches | {"ipam": ipam} | more

    def start(self, verb: str, config: Any, *, plugin: str = "bridge", **variables: Any) -> Running:
        """Start a call for the pod; `options` among the variables go to subprocess.Popen."""
        self.calls += 1
        return self.call.start(plugin, verb, config, **{"netns": self.pod, **variables})

    def run(self, verb: str, config: Any, **variables: Any) -> Outcome:
        """A call to its end."""
        return self.start(verb, config, **variables).finish()

    def shell(self, redirections: str, verb: str, config: Any, *, before: str = "") -> Outcome:
        """A call of bridge with a shell's redirections (`2>&-`), after the shell's commands `before`."""
        self.calls += 1
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "pod-one",
            "CNI_NETNS": str(self.pod.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.call.bin_dir),
        }
        words = ("/bin/sh", "-ec", f'{before}\nexec "$0" {redirections}', self.call.bin_dir / "bridge")
        done = self.call.host.run(*words, env=env, stdin=json.dumps(config).encode(), check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def life(self, config: dict[str, Any], **variables: Any) -> dict[str, Any]:
        """ADD, CHECK and DEL, each without a word on standard error; the result of ADD."""
        outcomes = [self.run("ADD", config, **variables)]
        result: dict[str, Any] = outcomes[0].ok().json
        assert observe.addresses(self.pod, variables.get("ifname", "eth0")) == [
            ip["address"] for ip in result["ips"]
        ]
        whole = config | {"prevResult": result}
        outcomes += [self.run(verb, whole, **variables).ok() for verb in ("CHECK", "DEL")]
        assert [(outcome.stderr, outcome.stdout) for outcome in outcomes[1:]] == [(b"", b"")] * 2
        assert outcomes[0].stderr == b""
        assert self.left() == []
        return result

    def left(self) -> list[str]:
        """What attachments left on the node and in the pod."""
        found = observe.attachment_leftovers(self.call.host, self.data_dir)
        return found + [name for name in observe.links(self.pod) if name != "lo"]


@pytest.fixture
def node(
    mode: str,
    request: pytest.FixtureRequest,
    call: Call,
    pod: Callable[[], NetNS],
    data_dir: Path,
    run_dir: Path,
) -> Iterator[Surroundings]:
    """A node; no attachment may be locked at the end, and an agent must have served all calls."""
    node = Surroundings(call, pod(), data_dir)
    yield node
    # The agent frees an attachment a moment after its answer.
    until(lambda: not list(run_dir.glob("attachments/*")), "all attachments freed")
    if mode == "agent":
        agent: Agent = request.getfixturevalue("agent")
        assert agent.served() == node.calls


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_nothing_but_the_cni_variables(node: Surroundings, backend: str) -> None:
    """Without PATH, HOME and the like everything works, executables of the system included."""
    node.life(node.config(ipMasqBackend=backend), PATH=None)


def test_an_almost_empty_del(node: Surroundings) -> None:
    """A DEL with the required variables alone, as podman sends it after a reboot, removes everything."""
    node.run("ADD", node.config()).ok()
    node.run("DEL", node.config(), netns="", PATH=None, CNI_NETNS=None, CNI_PATH=str(node.call.bin_dir)).ok()
    assert node.left() == []


@pytest.mark.row("contract", 3)
@pytest.mark.parametrize("plugin", PLUGINS)
def test_version_reads_nothing(node: Surroundings, plugin: str) -> None:
    """VERSION, and a call without a command, answer while the writer keeps standard input open."""
    for command, status in (("VERSION", 0), ("", 0)):
        node.calls += 1
        with node.call.host.popen(
            node.call.bin_dir / plugin,
            env={"CNI_COMMAND": command},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.wait(CALL_SECONDS) == status
            assert process.stdout is not None
            assert process.stderr is not None
            answer, about = process.stdout.read(), process.stderr.read()
        if command:
            assert json.loads(answer) == {"cniVersion": "1.1.0", "supportedVersions": SUPPORTED}
            assert about == b""
        else:
            assert answer == b""
            assert about.splitlines()[1].decode().endswith(": " + ", ".join(SUPPORTED))


def test_closed_standard_error(node: Surroundings) -> None:
    """With standard error closed an ADD succeeds and prints its result; no socket takes its number."""
    outcome = node.shell("2>&-", "ADD", node.config())
    assert {ip["address"] for ip in outcome.ok().json["ips"]} == {"10.72.0.2/24", "fd72::2/64"}
    node.shell("2>&-", "DEL", node.config()).ok()
    assert node.left() == []


@pytest.mark.row("contract", 90)
def test_closed_standard_output(node: Surroundings) -> None:
    """With standard output closed the work is done, the status as usual, and the answer written nowhere."""
    assert node.shell(">&-", "ADD", node.config()) == Outcome(0, b"", b"")
    assert set(observe.addresses(node.pod, "eth0")) == {"10.72.0.2/24", "fd72::2/64"}
    assert node.shell(">&-", "DEL", node.config()) == Outcome(0, b"", b"")
    assert node.left() == []
    assert node.shell(">&-", "ADD", {}).status == 1


def test_closed_standard_input(node: Surroundings) -> None:
    """A closed standard input reads as an empty one: refused, and nothing is created."""
    error = node.shell("0<&-", "ADD", node.config()).failed(6)
    assert error["msg"] == "error unmarshall network config: unexpected end of JSON input"
    error = node.shell("0>/dev/null", "ADD", node.config()).failed(5)
    assert error["msg"] == "error reading from stdin: bad file descriptor"
    assert node.left() == []


def test_all_closed(node: Surroundings) -> None:
    """With all three closed VERSION succeeds and an ADD fails, as it must without a config."""
    assert node.shell("0<&- >&- 2>&-", "VERSION", {}).status == 0
    assert node.shell("0<&- >&- 2>&-", "ADD", {}).status == 1
    assert node.left() == []


@pytest.mark.row("contract", 90)
def test_full_standard_output(node: Surroundings) -> None:
    """An answer that cannot be written is a failure told on standard error; DEL then cleans up."""
    for verb in ("VERSION", "ADD"):
        outcome = node.shell(">/dev/full", verb, node.config())
        assert (outcome.status, outcome.stdout) == (1, b"")
        assert b"No space left on device" in outcome.stderr
        assert b"Traceback" not in outcome.stderr
    node.run("DEL", node.config()).ok()
    assert node.left() == []


@pytest.mark.row("contract", 90)
@pytest.mark.parametrize("ignored", [False, True], ids=["", "SIGPIPE ignored"])
def test_nobody_reads_standard_output(node: Surroundings, ignored: bool) -> None:
    """Where nobody reads the answer SIGPIPE ends the process, as the reference's; DEL then cleans up."""
    for verb in ("VERSION", "ADD"):
        read_end, write_end = os.pipe()
        os.close(read_end)
        options = {"stdout": write_end, "restore_signals": not ignored}
        running = node.start(verb, node.config(), options=options)
        os.close(write_end)
        outcome = running.finish()
        assert outcome.status == -signal.SIGPIPE
        assert outcome.stderr == b""
    node.run("DEL", node.config()).ok()
    assert node.left() == []


def test_nobody_reads_standard_error(node: Surroundings) -> None:
    """A log line that nobody reads, here of an IPAM that fails, does not change the answer."""
    foreign = node.data_dir.parent / "foreign"
    foreign.mkdir()
    _script(foreign / "fails", "echo hopeless >&2; exit 1")
    read_end, write_end = os.pipe()
    os.close(read_end)
    config = node.config(ipam={"type": "fails"})
    running = node.start("ADD", config, CNI_PATH=str(foreign), options={"stderr": write_end})
    os.close(write_end)
    assert running.finish().failed(0)["msg"] == 'netplugin failed: "hopeless\\n"'
    assert node.left() == []


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody, root included, can write to."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount("none", folder, "tmpfs", MS_RDONLY)
    yield folder
    unmount(folder)


def test_read_only_directory(node: Surroundings, read_only: Path) -> None:
    """A working directory that cannot be written does not matter, unless the config names a place in it."""
    node.life(node.config(), options={"cwd": read_only})
    error = node.run("ADD", node.config(ipam={"dataDir": "networks"}), options={"cwd": read_only}).failed(999)
    assert error["msg"] == f"mkdir {read_only}/networks: read-only file system"
    assert "ipam.dataDir" in error["details"]
    assert node.left() == []


def test_relative_paths(node: Surroundings, tmp_path: Path) -> None:
    """Relative paths of config and environment are the caller's, also where an agent does the work."""
    folder = tmp_path / "caller"
    folder.mkdir()
    (folder / "resolv.conf").write_text("nameserver 10.72.0.53\n")
    (folder / "plugins").symlink_to(node.call.bin_dir)
    (folder / "pod").symlink_to(node.pod.path)
    config = node.config(ipam={"dataDir": "networks", "resolvConf": "resolv.conf"})
    variables = {"CNI_PATH": "plugins", "netns": "pod", "options": {"cwd": folder}}
    assert node.life(config, **variables)["dns"] == {"nameservers": ["10.72.0.53"]}
    assert (folder / "networks/odd/last_reserved_ip.0").read_text() == "10.72.0.2"


def test_removed_directory(node: Surroundings, tmp_path: Path) -> None:
    """A working directory that was removed does not matter either; paths relative to it lead nowhere."""
    gone = tmp_path / "gone"

    def run(verb: str, config: Any, path: str = "$CNI_PATH") -> Outcome:
        # The shell takes the folder from under its own feet, then becomes the plugin.
        before = f'/bin/mkdir "{gone}"; cd "{gone}"; /bin/rmdir "{gone}"; CNI_PATH="{path}"'
        return node.shell("", verb, config, before=before)

    addresses = {ip["address"] for ip in run("ADD", node.config()).ok().json["ips"]}
    assert addresses == {"10.72.0.2/24", "fd72::2/64"}
    run("DEL", node.config()).ok()
    error = run("ADD", node.config(ipam={"dataDir": "networks"})).failed(999)
    assert "networks" in error["msg"]
    assert "removed" in error["details"]
    relative = os.path.relpath(node.call.bin_dir)  # leads there from an agent's working directory
    error = run("ADD", node.config(), relative).failed(999)
    assert error["msg"] == f'failed to find plugin "host-local" in path [{relative}]'
    assert node.left() == []


@pytest.mark.parametrize("umask", [0, 0o777], ids="{:04o}".format)
def test_any_umask(node: Surroundings, tmp_path: Path, umask: int) -> None:
    """Under any umask everything works, and the store's modes are those that the reference gives."""
    modes = {}
    for name, folder in (("ours", node.call.bin_dir), ("reference", REFERENCE)):
        data_dir = tmp_path / name / "deep" / "networks"
        config = node.config(ipam={"dataDir": str(data_dir)})
        for command in ("ADD", "DEL", "ADD"):  # the last one leaves its reservation to be looked at
            call = Call(folder, node.call.host)
            options = {"umask": umask}
            call("host-local", command, config, netns="/run/netns/none", options=options).ok()
        modes[name] = {
            str(path.relative_to(tmp_path / name)): path.stat().st_mode
            for path in (tmp_path / name).rglob("*")
        }
        node.calls += 3 if name == "ours" else 0
    # The release of the reference that is installed here lets others read these; its newest does not.
    private = {name for name in modes["reference"] if "10.72" in name or "fd72" in name or "last_" in name}
    expected = {name: mode & ~0o077 if name in private else mode for name, mode in modes["reference"].items()}
    assert modes["ours"] == expected
    assert len(private) == 4
    node.life(node.config(), options={"umask": umask})


def test_python_variables_of_somebody_else(node: Surroundings, tmp_path: Path) -> None:
    """PYTHON* variables, and broken modules on their path and in the working directory, change nothing."""
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in POISON:
        (poison / f"{name}.py").write_text(f"open({str(tmp_path / 'stolen')!r}, 'w')\nraise SystemExit(7)\n")
    variables = {**STRANGERS, "PYTHONPATH": str(poison), "HOME": str(poison)}
    result = node.life(node.config(), options={"cwd": poison}, **variables)
    assert [ip["address"] for ip in result["ips"]] == ["10.72.0.2/24", "fd72::2/64"]
    assert not (tmp_path / "stolen").exists()
    assert sorted(path.name for path in poison.iterdir()) == sorted(f"{name}.py" for name in POISON)


@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1", "nonsense"])
def test_any_locale(node: Surroundings, locale: str) -> None:
    """The locale changes nothing, and a CNI_NETNS that is no text in it still finds the sandbox."""
    path = os.fsencode(node.pod.path) + b"-\xff\xc3\xa9"
    os.symlink(node.pod.path, path)
    try:
        variables = {"LANG": locale, "LC_ALL": locale, "JUNK": "\udcff\udc80", "netns": os.fsdecode(path)}
        outcome = node.run("ADD", node.config(), **variables)
        sandbox = outcome.ok().json["interfaces"][2]["sandbox"]
        assert sandbox == os.fsencode(path).decode("utf-8", "replace")
        node.run("DEL", node.config(), **variables).ok()
    finally:
        os.unlink(path)
    assert node.left() == []


def test_what_a_foreign_delegate_gets(node: Surroundings, tmp_path: Path) -> None:
    """A delegate runs where its caller runs: environment and standard input to the byte, directory, umask."""
    _script(
        tmp_path / "spy",
        f"exec 2>{tmp_path}/errors",
        f"/bin/cat /proc/$$/environ > {tmp_path}/$CNI_COMMAND.env",
        f"/bin/cat > {tmp_path}/$CNI_COMMAND.stdin",
        f"/bin/readlink /proc/$$/cwd /proc/$$/ns/net /proc/$$/ns/mnt > {tmp_path}/$CNI_COMMAND.place",
        f"umask >> {tmp_path}/$CNI_COMMAND.place",
        """[ $CNI_COMMAND != ADD ] || echo '{"ips": [{"address": "10.72.0.7/24"}]}'""",
    )
    folder = tmp_path / "caller"
    folder.mkdir()
    config = json.dumps(node.config(ipam={"type": "spy"}), indent=3).encode() + b" \n"
    variables = {"CNI_PATH": str(tmp_path), "PATH": None, "JUNK": "a=b\n\udcff", "EMPTY": ""} | STRANGERS
    for verb in ("ADD", "DEL"):
        outcome = node.run(verb, config, options={"cwd": folder, "umask": 0o027}, **variables)
        assert outcome.ok().stderr == b""
        env = dict(
            item.split(b"=", 1) for item in (tmp_path / f"{verb}.env").read_bytes().split(b"\0") if item
        )
        expected = {name: value for name, value in variables.items() if value is not None} | {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "pod-one",
            "CNI_NETNS": str(node.pod.path),
            "CNI_IFNAME": "eth0",
        }
        assert env == {os.fsencode(name): os.fsencode(value) for name, value in expected.items()}
        assert (tmp_path / f"{verb}.stdin").read_bytes() == config
        assert (tmp_path / f"{verb}.place").read_text().splitlines() == [
            str(folder),
            f"net:[{node.call.host.ident[1]}]",
            os.readlink("/proc/self/ns/mnt"),
            "0027",
        ]
    assert (tmp_path / "errors").read_bytes() == b""
    assert node.left() == []


@pytest.mark.parametrize(
    ("ifname", "backend"),
    [
        *(("é" * 7, "nftables"), ("-x", "iptables"), ("...", "nftables"), ("a\\b", "nftables")),
        *(
            ('a"b', "nftables"),
            ("a'b;", "iptables"),
            ("$(id)", "nftables"),
            ("{drop}", "nftables"),
            ("#", "iptables"),
        ),
    ],
)
def test_odd_interface_names(node: Surroundings, ifname: str, backend: str) -> None:
    """What the kernel takes as a name is taken, and never for anything else on its way to rules and files."""
    node.life(node.config(ipMasqBackend=backend), ifname=ifname)


def test_an_interface_name_that_is_no_text(node: Surroundings) -> None:
    """A name need not be UTF-8; where it must be text, in the result, a replacement stands for the byte."""
    config = node.config()
    result = node.run("ADD", config, ifname="e\udcff").ok().json
    assert result["interfaces"][2]["name"] == "e\ufffd"
    node.run("DEL", config, ifname="e\udcff").ok()
    assert node.left() == []


def test_a_large_environment(node: Surroundings) -> None:
    """A thousand variables and one of nearly 128 KiB pass."""
    many = {f"VARIABLE_{number}": "x" * 100 for number in range(1000)}
    node.life(node.config(), LARGE="x" * 131_000, **many)


def _script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
