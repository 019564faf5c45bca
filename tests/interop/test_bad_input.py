"""Bad input: every refused request gets one error object that says what is wrong, and nothing is created."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bad_input_cases import CASES, Case
from bad_input_types import KEYS, wrong_types
from support.agents import Agent
from support.calls import SYSTEM_PATH, Outcome, Running
from support.golden import Names, merge
from support.netns import NetNS

from pycni import launcher
from pycni.delegate import load_plugin
from pycni.handover import decode_call, encode_environment
from pycni.install import install, registered_plugins
from pycni.main import OneShot, drive, serve
from pycni.native import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IPAM = {"type": "host-local", "dataDir": "$DATA", "ranges": [[{"subnet": "10.71.0.0/24"}]]}
GOOD: dict[str, dict[str, Any]] = {
    "bridge": {"cniVersion": "1.1.0", "name": "badnet", "type": "bridge", "bridge": "badbr0", "ipam": IPAM},
    "host-local": {"cniVersion": "1.1.0", "name": "badnet", "type": "bridge", "ipam": IPAM},
    "loopback": {"cniVersion": "1.1.0", "name": "badnet", "type": "loopback"},
}

MEMBERS = {"code", "msg", "details"}


class Node:
    """A node that every case must leave as it is: the host, a pod, and a pod whose eth0 is taken."""

    def __init__(self, folder: Path) -> None:
        self.host, self.pod, self.taken = NetNS("host-bad"), NetNS("pod-bad"), NetNS("pod-bad-taken")
        self.taken.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        self.folder = folder
        self.bin_dir, self.run_dir, self.data_dir = (folder / name for name in ("bin", "run", "networks"))
        self.native_bin_dir, self.agent_bin_dir = folder / "native-bin", folder / "agent-bin"
        self.agent_run_dir = folder / "agent-run"
        for path in (self.bin_dir, self.native_bin_dir, self.agent_bin_dir, self.run_dir, self.data_dir):
            path.mkdir()
        install(self.bin_dir, self.run_dir)
        install(self.native_bin_dir, self.run_dir, compiled=build.program())
        install(self.agent_bin_dir, self.agent_run_dir)
        _make_oddities(folder, self.host)
        self.plugins = {plugin.name: load_plugin(plugin.value) for plugin in registered_plugins()}
        self.names = Names(
            POD=str(self.pod.path),
            TAKEN=str(self.taken.path),
            HOST=str(self.host.path),
            DATA=str(self.data_dir),
            BIN=str(self.bin_dir),
            FOREIGN=str(folder / "foreign"),
            DIR=str(folder),
        )
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        """Links, addresses and routes as /proc tells them, rules, and all files below our folder.

        The files are launchers, stores, and the locks of attachments (not their folder); /proc costs no
        process per case.
        """
        return {
            **{netns.name: _kernel(netns) for netns in (self.host, self.pod, self.taken)},
            "rules": self.host.run("nft", "list", "ruleset").stdout,
            "files": {str(path) for path in self.folder.rglob("*") if path.name != "attachments"},
        }

    def changes(self) -> list[str]:
        """What is not as it was the last time, one line each."""
        before, self.before = self.before, self.state()
        files = before.pop("files") ^ self.before["files"]
        found = [f"came or went: {name}" for name in sorted(files)]
        for key, was in before.items():
            if was != self.before[key]:
                found.append(f"{key}: was {was!r}, is {self.before[key]!r}")
        return found

    def forget_hints(self) -> None:
        """Remove what a store keeps after its last reservation was given back."""
        store = self.data_dir / "badnet"
        if store.exists():
            for name in ("lock", "last_reserved_ip.0"):
                (store / name).unlink(missing_ok=True)
            store.rmdir()

    def request(self, case: Case) -> tuple[dict[str, str], bytes]:
        """Environment and standard input of a case."""
        config = case.config
        if isinstance(config, dict):
            config = json.dumps(self.names.fill(merge(GOOD[case.plugin], config))).encode()
        usual: dict[str, str | None] = {
            "PATH": SYSTEM_PATH,
            "CNI_COMMAND": case.verb,
            "CNI_CONTAINERID": "pod-one",
            "CNI_NETNS": "$POD",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "$BIN",
        }
        env = {
            name: self.names.fill(value) for name, value in (usual | case.env).items() if value is not None
        }
        return env, config

    def in_process(self, case: Case) -> Outcome:
        """The case as a launcher without agent serves it, but in this process."""
        env, stdin = self.request(case)
        block = encode_environment(env)
        with self.host.inside():
            sandbox, errno = launcher.open_sandbox(block, os.fsencode(env["CNI_COMMAND"]))
            parts = (block, stdin, launcher.directory(), launcher.numbers(0, errno))
            call = decode_call(parts, os.getpid(), sandbox)
            ctx = Quiet(call, str(self.run_dir), [])
            try:
                reply = drive(serve(self.plugins[case.plugin], call, ctx))
            finally:
                ctx.close()
                if sandbox >= 0:
                    os.close(sandbox)
        return Outcome(reply.status, reply.stdout, reply.stderr + b"".join(ctx.lines))

    def executed(self, case: Case, bin_dir: Path, source: int = subprocess.PIPE) -> Outcome:
        """The case through the executable in `bin_dir`; `source` is a descriptor for its standard input."""
        env, stdin = self.request(case)
        process = self.host.popen(
            bin_dir / case.plugin, env=env, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return Running(process, stdin).finish()

    def close(self) -> None:
        for netns in (self.host, self.pod, self.taken):
            netns.delete()


FOREIGN = {
    "lost": "#!/nonexistent/interpreter\n",
    "noise": "\0noise",
    "fails": "#!/bin/sh\nexit 3\n",
    "complains": "#!/bin/sh\necho no addresses left >&2\nexit 3\n",
    "prints": "#!/bin/sh\necho boom\nexit 1\n",
    "silent": "#!/bin/sh\n",
    "coded": """#!/bin/sh
echo '{"code": 123, "msg": "pool empty", "details": "ask the administrator"}'
exit 1
""",
    "empty": "#!/bin/sh\necho '{}'\n",
    "banana": """#!/bin/sh\necho '{"ips": [{"address": "banana"}]}'\n""",
    "future": """#!/bin/sh\necho '{"cniVersion": "7.0.0"}'\n""",
}
"""Plugins of somebody else, by name."""


def _make_oddities(folder: Path, host: NetNS) -> None:
    (folder / "file").touch()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    (folder / "host").symlink_to(host.path)
    os.mkfifo(folder / "fifo")
    foreign = folder / "foreign"
    (foreign / "folder").mkdir(parents=True)
    (foreign / "plain").write_text("#!/bin/sh\n")
    for name, text in FOREIGN.items():
        (foreign / name).write_text(text)
        (foreign / name).chmod(0o755)


class Quiet(OneShot):
    """Keeps what is logged."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: list[bytes] = []

    def log(self, text: str) -> None:
        self.lines.append(text.encode() + b"\n")


def _kernel(netns: NetNS) -> dict[str, Any]:
    with netns.inside():  # thread-self, and it is this thread that moved
        net = Path("/proc/thread-self/net")
        links = [line.partition(":")[0].strip() for line in (net / "dev").read_text().splitlines()[2:]]
        return {"links": links} | {
            name: (net / name).read_text() for name in ("fib_trie", "route", "if_inet6")
        }


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("bad-input"))
    yield node
    node.close()


@pytest.fixture(scope="module")
def through_agent(node: Node) -> Iterator[Callable[..., Outcome]]:
    """Execute cases with an agent on the node, which must have served them all."""
    agent = Agent(node.host, node.agent_run_dir, node.folder / "agent.log")
    calls = itertools.count()
    node.before = node.state()

    def call(case: Case, source: int = subprocess.PIPE) -> Outcome:
        next(calls)
        return node.executed(case, node.agent_bin_dir, source)

    yield call
    served = agent.served()
    agent.stop()
    assert served == next(calls)


@pytest.fixture(params=["oneshot", "agent"])
def run(request: pytest.FixtureRequest, node: Node) -> Callable[..., Outcome]:
    """Execute a case, without an agent or with one: `run(case, source)`."""
    if request.param == "agent":
        call: Callable[..., Outcome] = request.getfixturevalue("through_agent")
        return call
    return lambda case, source=subprocess.PIPE: node.executed(case, node.bin_dir, source)


def problems(node: Node, case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with the answer to a case, and what it left behind."""
    found = _malformed(outcome)
    if not found:
        error = outcome.json
        msg, details = error["msg"], error.get("details", "")
        wanted = node.names.fill(case.msg)
        if error["code"] != case.code:
            found.append(f"code: expected {case.code}")
        if not (msg.startswith(wanted[:-1]) if wanted.endswith("…") else msg == wanted):
            found.append(f"msg: expected {wanted!r}")
        for text in map(node.names.fill, case.tells):
            if text not in msg and text not in details:
                found.append(f"not told: {text!r}")
    if case.allocates:
        node.forget_hints()
    found += node.changes()
    return [*found, f"answer: {outcome}"] if found else []


def _malformed(outcome: Outcome) -> list[str]:
    """What must hold for every refused request, whatever it is about."""
    if outcome.status != 1:
        return ["exit status: expected 1"]
    try:
        error = outcome.json
    except ValueError:
        return ["stdout: expected one JSON document"]
    if not isinstance(error, dict) or list(error)[:2] != ["code", "msg"] or not set(error) <= MEMBERS:
        return ["stdout: expected an object of code, msg and perhaps details"]
    found = []
    if type(error["code"]) is not int:
        found.append("code: expected a whole number")
    if not all(isinstance(error[key], str) and error[key] for key in list(error)[1:]):
        found.append("msg and details: expected texts that are not empty")
    layout = json.dumps(error, indent=4, ensure_ascii=False)
    for char in "<>&":
        layout = layout.replace(char, f"\\u{ord(char):04x}")
    if outcome.stdout.decode() != layout:
        found.append(f"stdout: expected {layout!r}")
    if b"Traceback" in outcome.stdout + outcome.stderr:
        found.append("a traceback")
    return found


def judge(node: Node, case: Case, outcome: Outcome) -> None:
    if found := problems(node, case, outcome):
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.row("contract", 5, 7, 11, 12, 13, 15, 17, 19, 20, 21, 24, 25, 29, 30, 32, 33, 34, 35, 36)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_refused(node: Node, case: Case) -> None:
    """The request is refused with its code and words, and nothing is created."""
    judge(node, case, node.in_process(case))


@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.title)
def test_refused_by_the_executable(node: Node, case: Case) -> None:
    """A third of the cases as real processes: the same answers, and still nothing is created."""
    judge(node, case, node.executed(case, node.bin_dir))


@pytest.mark.parametrize("case", CASES[2::3], ids=lambda case: case.title)
def test_refused_by_the_native_executable(node: Node, case: Case) -> None:
    """The last third through the compiled launcher, which without an agent becomes a Python process."""
    judge(node, case, node.executed(case, node.native_bin_dir))


@pytest.mark.parametrize("case", CASES[1::3], ids=lambda case: case.title)
def test_refused_through_the_agent(node: Node, through_agent: Callable[..., Outcome], case: Case) -> None:
    """Another third with an agent: the same answers, and none of them keeps it from serving the next."""
    judge(node, case, through_agent(case))


@pytest.mark.parametrize(("plugin", "key"), [(plugin, key) for plugin, keys in KEYS.items() for key in keys])
def test_wrong_type(node: Node, plugin: str, key: str) -> None:
    """A value of any other type is refused with the key's path and the value."""
    found = []
    for case in wrong_types(plugin, key):
        found += [f"{case.title}: {line}" for line in problems(node, case, node.in_process(case))]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("plugin", GOOD)
@pytest.mark.parametrize("verb", ["ADD", "STATUS"])
def test_the_good_config_is_accepted(node: Node, plugin: str, verb: str) -> None:
    """What the cases are patches of is no reason for a refusal, and DEL takes back what ADD made."""
    for each in (verb, "DEL"):
        outcome = node.in_process(Case("good", 0, "", plugin=plugin, verb=each))
        assert outcome.status == 0, outcome
    node.forget_hints()
    node.host.run("ip", "link", "delete", "badbr0", check=False)
    assert [line for line in node.changes() if not line.startswith("pod-bad: ")] == []


STATUS_CONFIG = b"""{"name":"badnet","cniVersion":"1.1.0",
    "ipam":{"dataDir":"$DATA","subnet":"10.71.0.0/24"}}"""
ACCEPTED = {
    "another spelling": b"""{"NAME":"badnet","CniVersion":"1.1.0",
        "Ipam":{"DATADIR":"$DATA","Subnet":"10.71.0.0/24"}}""",
    "the last one counts": b"""{"name":"a/b","name":"badnet","cniVersion":"9.9.9","CNIVERSION":"1.1.0",
        "ipam":5,"ipam":{"dataDir":5,"datadir":"$DATA","ranges":5,"RANGES":[[{"subnet":"10.71.0.0/24"}]]}}""",
    "null leaves what was there": b"""{"name":"badnet","NAME":null,"cniVersion":"1.1.0","cniversion":null,
        "ipam":{"dataDir":"$DATA","dataDir":null,"subnet":"10.71.0.0/24","Subnet":null},"ipam":null}""",
    "members of others": STATUS_CONFIG[:-1]
    + b""","x":1e999,"y":"\\ud800","z":"\xff","":-0,"deep":"""
    + b"[" * 500
    + b"]" * 500
    + b"}",
    "16 MiB less a byte": STATUS_CONFIG,
}


@pytest.mark.row("contract", 23, 26)
@pytest.mark.parametrize("title", ACCEPTED)
def test_accepted(node: Node, run: Callable[..., Outcome], title: str) -> None:
    """Odd, but Go's decoder takes it, so configs may look like this."""
    config = ACCEPTED[title].replace(b"$DATA", os.fsencode(node.data_dir))
    if "MiB" in title:
        config += b" " * ((16 << 20) - 1 - len(config))
    outcome = run(Case(title, 0, "", plugin="host-local", verb="STATUS", config=config))
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("source", "code", "msg"),
    [
        ("/dev/zero", 5, "error reading from stdin: …"),
        ("/proc/self/mem", 5, "error reading from stdin: input/output error"),
        ("/dev/null", 6, "error unmarshall network config: unexpected end of JSON input"),
    ],
)
def test_unreadable_standard_input(
    node: Node, run: Callable[..., Outcome], source: str, code: int, msg: str
) -> None:
    """An endless file, one whose reading fails and an empty one are told apart."""
    case = Case(source, code, msg)
    descriptor = os.open(source, os.O_RDONLY)
    try:
        outcome = run(case, descriptor)
    finally:
        os.close(descriptor)
    judge(node, case, outcome)


@pytest.mark.row("contract", 28)
def test_a_folder_as_standard_input(node: Node) -> None:
    """It cannot be read (code 5); CPython does not even start with it, so the launcher that is a Python text
    can only fail with a word on standard error. Nothing is created."""
    case = Case("a folder", 5, "error reading from stdin: is a directory")
    descriptor = os.open("/", os.O_RDONLY)
    try:
        native = node.executed(case, node.native_bin_dir, descriptor)
        text = node.executed(case, node.bin_dir, descriptor)
    finally:
        os.close(descriptor)
    judge(node, case, native)
    if (node.bin_dir / case.plugin).read_bytes().startswith(b"#!"):  # not with PYCNI_TEST_LAUNCHER=native
        assert (text.status, text.stdout) == (1, b"")
        assert b"<stdin> is a directory" in text.stderr
