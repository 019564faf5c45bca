"""host-local beside the reference's executable: same requests, same answers, same bytes on disk.

The reference is Debian's containernetworking-plugins (spec versions up to 1.0.0). Each case is a list of
requests, given to both, each on a store of its own; after every request the results, the error's code and
text and the whole store are compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pycni.context import Caller, Context
from pycni.skel import handle
from pycni_hostlocal.plugin import HostLocal

REFERENCE = os.environ.get("REF_BIN", "/usr/lib/cni") + "/host-local"
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0")

Step = tuple[str, str, dict[str, Any], dict[str, str]]


class InPlace(Context):
    def __init__(self, cwd: str) -> None:
        self.caller = Caller(os.getpid(), cwd, 0o022, (0, 0))

    async def run(self, work: Any, *args: Any) -> Any:
        return work(*args)

    def shield(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def log(self, text: str) -> None:
        raise AssertionError(f"unexpected log line: {text}")


def ours(env: dict[str, str], stdin: bytes, cwd: str) -> tuple[int, bytes]:
    coroutine = handle(HostLocal(), env, stdin, InPlace(cwd))
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    reply = stop.value.value
    return reply.status, reply.stdout


def theirs(env: dict[str, str], stdin: bytes, cwd: str) -> tuple[int, bytes]:
    done = subprocess.run([REFERENCE], input=stdin, env=env, cwd=cwd, capture_output=True, check=False)
    return done.returncode, done.stdout


def answer(status: int, stdout: bytes, folder: Path) -> tuple[int, Any]:
    """What is contract: the result, or the error's code and text (ours adds details)."""
    document = json.loads(stdout.decode().replace(str(folder), "$DATADIR")) if stdout else None
    if status and document is not None:
        document.pop("details", None)
        before, parser, _ = document["msg"].partition("json: cannot unmarshal")
        document["msg"] = before + parser
    elif document and document["cniVersion"] == "1.0.0" and not document.get("dns", True):
        del document["dns"]  # Debian's older library prints an empty one
    return status, document


def snapshot(folder: Path) -> dict[str, tuple[str, bytes | None]]:
    """Every path below the folder: its mode, and its bytes if it is a file.

    Debian's older release makes the files readable for all, newer ones (and ours) for the owner only.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = stat.filemode(path.stat().st_mode).replace("-rw-r--r--", "-rw-------")
        found[str(path.relative_to(folder))] = (mode, path.read_bytes() if path.is_file() else None)
    return found


def request(step: Step, folder: Path) -> tuple[dict[str, str], bytes]:
    verb, owner, config, more = step
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": owner,
        "CNI_NETNS": "/var/run/netns/none",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
        **more,
    }
    text = json.dumps({"cniVersion": "1.0.0", "name": "net", **config})
    return env, text.replace("$DATADIR", str(folder)).encode()


def compare(steps: list[Step], tmp_path: Path) -> None:
    reference, own = tmp_path / "reference", tmp_path / "own"
    reference.mkdir()
    own.mkdir()
    umask = os.umask(0o022)
    try:
        for number, step in enumerate(steps):
            expected = answer(*theirs(*request(step, reference), str(reference)), reference)
            got = answer(*ours(*request(step, own), str(own)), own)
            assert got == expected, f"step {number}: {step}"
            assert snapshot(own) == snapshot(reference), f"store after step {number}: {step}"
    finally:
        os.umask(umask)


def net(*sets: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": "$DATADIR/store", "ranges": list(sets), **more.pop("ipam", {})}
    return {"ipam": ipam, **more}


def subnet(text: str, start: str = "", end: str = "", gateway: str = "") -> dict[str, str]:
    members = {"subnet": text, "rangeStart": start, "rangeEnd": end, "gateway": gateway}
    return {key: value for key, value in members.items() if value}


def add(owner: str, config: dict[str, Any], **env: str) -> Step:
    return "ADD", owner, config, env


def delete(owner: str, config: dict[str, Any], **env: str) -> Step:
    return "DEL", owner, config, env


def check(owner: str, config: dict[str, Any], **env: str) -> Step:
    return "CHECK", owner, config, env


V4 = net([subnet("10.0.0.0/29")])
DUAL = net([subnet("10.0.0.0/29")], [subnet("fd00::/126")])
TWO = net(
    [
        subnet("10.4.0.0/24", "10.4.0.10", "10.4.0.11", "10.4.0.10"),
        subnet("10.5.0.0/24", "10.5.0.7", "10.5.0.8"),
    ]
)

LIVES: dict[str, list[Step]] = {
    "order and reuse": [
        *(add(name, V4) for name in "abc"),
        delete("b", V4),
        *(add(name, V4) for name in "defgh"),
        delete("c", V4),
        add("i", V4),
        check("i", V4),
        check("c", V4),
        *(delete(name, V4) for name in "adefghi"),
        add("j", V4),
    ],
    "dual stack, used up": [*(add(name, DUAL) for name in "abcd"), delete("a", DUAL), add("c", DUAL)],
    "two ranges in a set": [
        *(add(name, TWO) for name in "abcd"),
        delete("b", TWO),
        add("e", TWO),
        delete("a", TWO),
        add("f", TWO),
    ],
    "duplicates": [
        add("a", DUAL),
        add("a", DUAL),
        add("a", DUAL, CNI_IFNAME="eth1"),
        delete("a", DUAL),
        check("a", DUAL),
    ],
    "an id with the text of an address": [add("10.0.0.5", V4), check("10.0.0.5", V4), delete("10.0.0.5", V4)],
    "requested by CNI_ARGS": [
        add("a", DUAL, CNI_ARGS="IP=10.0.0.5"),
        add("b", DUAL, CNI_ARGS="IP=10.0.0.5"),
        add("c", DUAL, CNI_ARGS="IP=10.0.0.6/29"),
        add("d", DUAL, CNI_ARGS="IP=10.0.0.1"),
        add("e", DUAL, CNI_ARGS="IP=::ffff:10.0.0.4"),
        delete("a", DUAL),
        delete("b", DUAL),
        add("g", DUAL, CNI_ARGS="IP=10.0.0.99"),
        add("h", DUAL, CNI_ARGS="IP=;IgnoreUnknown=true;K8S_POD_NAME=x"),
        add("i", DUAL),
    ],
    "requested by args and capability": [
        add("a", DUAL | {"args": {"cni": {"ips": ["10.0.0.3", "fd00::3/64"]}}}),
        add("b", DUAL | {"runtimeConfig": {"ips": ["10.0.0.2/29"]}}),
        add("c", DUAL | {"runtimeConfig": {"ips": ["10.0.0.4", "10.0.0.4"]}}, CNI_ARGS="IP=10.0.0.4"),
        add("d", net([subnet("10.0.0.0/24")], runtimeConfig={"ips": ["192.0.2.1"]})),
        add("e", net([subnet("10.0.0.0/24")], [subnet("fd00::/64")], runtimeConfig={"ips": ["fd00::1"]})),
    ],
    "legacy subnet, capability ranges and ranges together": [
        add(
            "a",
            net(
                [subnet("10.3.0.0/24")],
                ipam={"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.9", "gateway": "10.2.0.254"},
                runtimeConfig={"ipRanges": [[{"subnet": "10.1.0.0/24"}]]},
            ),
        ),
        delete("a", net(ipam={"subnet": "10.2.0.0/24"})),
        add("b", {"ipam": {"dataDir": "$DATADIR/store", "subnet": "10.2.0.0/24"}}),
    ],
    "network and broadcast address on request": [
        add(name, net([subnet("10.0.0.0/30", "10.0.0.0", "10.0.0.3")])) for name in "abcd"
    ],
    "gateway elsewhere": [
        add("a", net([subnet("10.0.0.0/24", gateway="192.0.2.1")])),
        add("b", net([subnet("10.0.0.0/24", gateway="fd00::1")])),
        add("c", net([subnet("10.0.0.0/24", gateway="10.0.0.4")])),
        add("d", net([subnet("10.0.0.0/24", gateway="10.0.0.4")])),
    ],
    "huge subnets": [
        add("a", net([subnet("fd00::/16")], [subnet("10.0.0.0/8")])),
        add(
            "b", net([subnet("fd00::/16", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:fffe")], [subnet("10.0.0.0/8")])
        ),
        add(
            "c", net([subnet("fd00::/16", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:fffe")], [subnet("10.0.0.0/8")])
        ),
        add(
            "d", net([subnet("fd00::/16", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:fffe")], [subnet("10.0.0.0/8")])
        ),
    ],
    "keys in other spellings": [
        add(
            "a",
            {
                "IPAM": {
                    "DataDir": "$DATADIR/store",
                    "RANGES": [[{"Subnet": "10.0.0.0/24", "RANGEsTART": "10.0.0.7"}]],
                    "Routes": [{"DST": "0.0.0.0/0", "GW": "10.0.0.1"}],
                },
                "RuntimeConfig": {"IPs": ["10.0.0.9"]},
            },
        ),
    ],
    "relative data folder": [
        add("a", {"ipam": {"dataDir": "here", "subnet": "10.0.0.0/24"}}),
        delete("a", {"ipam": {"dataDir": "here", "subnet": "10.0.0.0/24"}}),
    ],
}


@pytest.mark.parametrize("life", LIVES)
def test_the_same_life_gives_the_same_answers_and_the_same_files(life: str, tmp_path: Path) -> None:
    """Each request of a life is answered as the reference answers it, and leaves the same store."""
    compare(LIVES[life], tmp_path)


def bad(*sets: list[dict[str, str]], **more: Any) -> list[Step]:
    return [add("a", net(*sets, **more))]


GOOD = [subnet("10.0.0.0/24")]

REFUSED: dict[str, list[Step]] = {
    "no ipam": [add("a", {}), check("a", {}), delete("a", {})],
    "ipam null": [add("a", {"ipam": None})],
    "no ranges": [*bad(), check("a", net())],
    "ranges null": bad(ipam={"ranges": None}),
    "empty set": bad([]),
    "set null": [add("a", {"ipam": {"dataDir": "$DATADIR/store", "ranges": [GOOD, None]}})],
    "no subnet": bad([{"rangeStart": "10.0.0.1"}]),
    "empty subnet": bad([{"subnet": ""}]),
    "subnet is no CIDR": bad([subnet("banana")]),
    "subnet without length": bad([subnet("10.0.0.0")]),
    "start is no address": bad([subnet("10.0.0.0/24", "banana")]),
    "end is no address": bad([subnet("10.0.0.0/24", "", "10.0.0")]),
    "gateway is no address": bad([subnet("10.0.0.0/24", gateway="10.0.0.0/24")]),
    "/31": bad([subnet("10.0.0.0/31")]),
    "/32": bad([subnet("10.0.0.1/32")]),
    "/127": bad([subnet("fd00::/127")]),
    "host bits /24": bad([subnet("10.0.0.5/24")]),
    "host bits /23": bad([subnet("10.0.1.0/23")]),
    "host bits /63": bad([subnet("fd00:0:0:1::/63")]),
    "small and host bits": bad([subnet("10.0.0.1/31")]),
    "mapped subnet": bad([subnet("::ffff:10.0.0.0/120")]),
    "start outside": bad([subnet("10.0.0.0/24", "10.0.1.1")]),
    "end outside": bad([subnet("10.0.0.0/24", "", "10.0.1.1")]),
    "end before default start": bad([subnet("10.0.0.0/24", "", "10.0.0.0")]),
    "start after end": bad([subnet("10.0.0.0/24", "10.0.0.9", "10.0.0.3")]),
    "start of the other family": bad([subnet("10.0.0.0/24", "fd00::1")]),
    "end of the other family": bad([subnet("10.0.0.0/24", "10.0.0.3", "fd00::1")]),
    "both outside": bad([subnet("10.0.0.0/24", "10.1.0.3", "10.1.0.5")]),
    "mixed families": bad([subnet("10.0.0.0/24"), subnet("fd00::/64")]),
    "overlap in a set": bad([subnet("10.0.0.0/24"), subnet("10.0.0.0/25")]),
    "overlap of parts": bad(
        [subnet("10.0.0.0/24", "10.0.0.2", "10.0.0.9"), subnet("10.0.0.0/24", "10.0.0.9")]
    ),
    "same subnet, apart": bad([subnet("10.0.0.0/24", "", "10.0.0.9"), subnet("10.0.0.0/24", "10.0.0.10")]),
    "overlap between sets": bad(GOOD, [subnet("10.0.0.0/25")]),
    "overlap of the first with the third": bad(GOOD, [subnet("10.1.0.0/24")], [subnet("10.0.0.0/16")]),
    "second set bad": bad(GOOD, [subnet("10.1.0.0/31")]),
    "legacy subnet bad": bad(GOOD, ipam={"subnet": "10.9.0.0/31"}),
    "legacy parts without subnet": bad(GOOD, ipam={"rangeStart": "10.9.0.1"}),
    "legacy start is no address": bad(GOOD, ipam={"rangeStart": "banana"}),
    "capability range bad": bad(GOOD, runtimeConfig={"ipRanges": [[{"subnet": "x"}]]}),
    "two sets of a family, 0.2.0": bad(GOOD, [subnet("10.1.0.0/24")], cniVersion="0.2.0"),
    "two sets of a family, no version": bad(GOOD, [subnet("10.1.0.0/24")], cniVersion=""),
    "two families, 0.2.0": bad(GOOD, [subnet("fd00::/64")], cniVersion="0.2.0"),
    "CNI_ARGS is no pair": [add("a", net(GOOD), CNI_ARGS="foo")],
    "CNI_ARGS ends in a semicolon": [add("a", net(GOOD), CNI_ARGS="IP=10.0.0.9;")],
    "CNI_ARGS with two signs": [add("a", net(GOOD), CNI_ARGS="IP=1=2")],
    "CNI_ARGS unknown": [add("a", net(GOOD), CNI_ARGS='X=1;Y="é\t')],
    "CNI_ARGS key in lower case": [add("a", net(GOOD), CNI_ARGS="ip=10.0.0.9")],
    "CNI_ARGS bad boolean": [add("a", net(GOOD), CNI_ARGS="IgnoreUnknown=yes")],
    "CNI_ARGS bad address": [
        add("a", net(GOOD), CNI_ARGS="IP=banana"),
        check("a", net(GOOD), CNI_ARGS="IP=banana"),
    ],
    "CNI_ARGS bad length": [add("a", net(GOOD), CNI_ARGS="IP=10.0.0.9/33")],
    "args address bad": bad(GOOD, args={"cni": {"ips": ["bad"]}}),
    "args address empty": bad(GOOD, args={"cni": {"ips": [""]}}),
    "capability address bad": bad(GOOD, runtimeConfig={"ips": ["10.0.0.9", "x"]}),
    "no resolver file": bad(GOOD, ipam={"resolvConf": "/nonexistent"}),
    "resolver file is a folder": bad(GOOD, ipam={"resolvConf": "/etc"}),
    "route is no CIDR": bad(GOOD, ipam={"routes": [{"dst": "banana"}]}),
    "gateway of a route is no address": bad(GOOD, ipam={"routes": [{"dst": "10.9.0.0/16", "gw": "banana"}]}),
    **{
        f"{key} of a wrong type": bad(GOOD, ipam={key: value})
        for key, value in {
            "type": 5,
            "dataDir": ["x"],
            "resolvConf": True,
            "ranges": {"subnet": "10.0.0.0/24"},
            "subnet": 5,
            "rangeStart": 5,
            "rangeEnd": False,
            "gateway": {},
            "routes": "x",
        }.items()
    },
    "ipam is text": [add("a", {"ipam": "host-local"}), check("a", {"ipam": []})],
    "a flat list of ranges": [add("a", {"ipam": {"ranges": GOOD}})],
    "a range is text": bad(["10.0.0.0/24"]),  # type: ignore[list-item]
    "args is text": bad(GOOD, args="x"),
    "args.cni is text": bad(GOOD, args={"cni": "x"}),
    "args.cni.ips is text": bad(GOOD, args={"cni": {"ips": "10.0.0.9"}}),
    "runtimeConfig is a list": bad(GOOD, runtimeConfig=[]),
    "runtimeConfig.ips has a number": bad(GOOD, runtimeConfig={"ips": [5]}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_is_refused_with_the_same_text(case: str, tmp_path: Path) -> None:
    """A bad config gets the reference's code and text, or passes where it passes there."""
    compare(REFUSED[case], tmp_path)
