"""Bad input: every refused request gets one error object that says what is wrong, and nothing is created."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bad_input_cases import CASES, Case
from bad_input_types import KEYS, wrong_types
from support.agents import Agent
from support.calls import SYSTEM_PATH, Outcome, execute
from support.golden import Names, merge
from support.netns import NetNS

from pycni import launcher
from pycni.delegate import load_plugin
from pycni.handover import decode_call, encode_environment
from pycni.install import install, registered_plugins
from pycni.main import OneShot, drive, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

IPAM = {"type": "host-local", "dataDir": "$DATA", "ranges": [[{"subnet": "10.71.0.0/24"}]]}
GOOD: dict[str, dict[str, Any]] = {
    "bridge": {"cniVersion": "1.1.0", "name": "badnet", "type": "bridge", "bridge": "badbr0", "ipam": IPAM},
    "host-local": {"cniVersion": "1.1.0", "name": "badnet", "type": "bridge", "ipam": IPAM},
    "loopback": {"cniVersion": "1.1.0", "name": "badnet", "type": "loopback"},
}

MEMBERS = {"code", "msg", "details"}


class Node:
    """A node that every case of this module must leave as it is."""

    def __init__(self, folder: Path) -> None:
        self.host, self.pod, self.taken = NetNS("host-bad"), NetNS("pod-bad"), NetNS("pod-bad-taken")
        self.folder = folder
        self.bin_dir, self.run_dir, self.data_dir = (folder / name for name in ("bin", "run", "networks"))
        for path in (self.bin_dir, self.run_dir, self.data_dir):
            path.mkdir()
        install(self.bin_dir, self.run_dir)
        self.taken.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        _make_oddities(folder, self.host)
        self.plugins = {plugin.name: load_plugin(plugin.value) for plugin in registered_plugins()}
        self.names = Names(
            POD=str(self.pod.path),
            TAKEN=str(self.taken.path),
            HOST=str(self.host.path),
            DATA=str(self.data_dir),
            BIN=str(self.bin_dir),
            DIR=str(folder),
            FOREIGN=str(folder / "foreign"),
        )
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        """Links, addresses and routes of the namespaces as /proc tells them, rules, and all files below."""
        return {
            **{netns.name: _kernel(netns) for netns in (self.host, self.pod, self.taken)},
            "rules": self.host.run("nft", "list", "ruleset").stdout,
            "files": sorted(str(path) for path in self.folder.rglob("*") if not path.is_dir()),
        }

    def changes(self) -> list[str]:
        """What is not as it was the last time, one line each."""
        before, self.before = self.before, self.state()
        found = []
        for key, was in before.items():
            if self.before[key] != was:
                found.append(f"{key}: was {was!r}, is {self.before[key]!r}")
        return found

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
        """The case as a launcher without agent serves it, without the process."""
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

    def executed(self, case: Case) -> Outcome:
        env, stdin = self.request(case)
        return execute(self.host, self.bin_dir / case.plugin, env, stdin).finish()

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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_refused(node: Node, case: Case) -> None:
    """The request is refused with its code and words, and nothing is created."""
    judge(node, case, node.in_process(case))


@pytest.mark.parametrize(("plugin", "key"), [(plugin, key) for plugin, keys in KEYS.items() for key in keys])
def test_wrong_type(node: Node, plugin: str, key: str) -> None:
    """A value of any other type is refused with the key's path and the value."""
    found = []
    for case in wrong_types(plugin, key):
        found += [f"{case.title}: {line}" for line in problems(node, case, node.in_process(case))]
    if found:
        pytest.fail("\n".join(found), pytrace=False)
