"""Requests for the fuzzer: configs from templates, damaged as trees, as texts and as bytes; odd environments.

Everything comes out of the `random.Random` that is given, so that a seed gives the same requests again.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from pycni.versions import SUPPORTED

if TYPE_CHECKING:
    from random import Random

    Env = dict[str, str]

V4_RANGE = {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.9", "gateway": "10.1.0.1"}
ROUTES = [
    {"dst": "0.0.0.0/0"},
    {"dst": "fd00::/8", "gw": "fd01::1", "mtu": 1400, "priority": 5, "table": 100},
]
HOST_LOCAL = {
    "type": "host-local",
    "dataDir": "/nowhere",
    "ranges": [[V4_RANGE, {"subnet": "10.2.0.0/30"}], [{"subnet": "fd01::/64"}]],
    "routes": ROUTES,
}
DNS = {"nameservers": ["10.0.0.1"], "domain": "x", "search": ["a", "b"], "options": ["c"]}
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "cni0", "mac": "02:00:00:00:00:01"},
        {"name": "veth1"},
        {"name": "eth0", "sandbox": "/pod/0"},
    ],
    "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 2, "version": "4"}],
    "routes": ROUTES,
    "dns": DNS,
}
OLD_RESULT = {"ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1", "routes": ROUTES[:1]}, "dns": DNS}

TEMPLATES: list[dict[str, Any]] = [
    {
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "isDefaultGateway": True,
        "forceAddress": True,
        "ipMasq": True,
        "ipMasqBackend": "nftables",
        "mtu": 1400,
        "hairpinMode": True,
        "promiscMode": False,
        "macspoofchk": True,
        "portIsolation": True,
        "enabledad": True,
        "ipam": HOST_LOCAL,
        "dns": DNS,
    },
    {
        "type": "bridge",
        "vlan": 100,
        "vlanTrunk": [{"id": 5}, {"minID": 7, "maxID": 9}],
        "preserveDefaultVlan": False,
        "isGateway": True,
        "ipam": {"type": "addresses", "subnets": ["10.9.0.0/24"]},
    },
    {"type": "bridge", "ipam": {}, "disableContainerInterface": True, "promiscMode": True},
    {"type": "bridge", "ipam": {"type": "foreign"}, "isDefaultGateway": True},
    {"type": "host-local", "ipam": HOST_LOCAL},
    {
        "type": "host-local",
        "ipam": {"type": "host-local", **V4_RANGE, "resolvConf": "/nowhere"},
        "args": {"cni": {"ips": ["10.1.0.7"]}},
        "runtimeConfig": {"ips": ["fd01::7/64"], "ipRanges": [[{"subnet": "10.3.0.0/29"}]]},
    },
    {"type": "loopback"},
    {"type": "tuning", "capabilities": {"mac": True}, "runtimeConfig": {"mac": "02:00:00:00:00:05"}},
]
EXTRAS: list[dict[str, Any]] = [
    {},
    {},
    {"prevResult": RESULT},
    {"prevResult": OLD_RESULT},
    {"cni.dev/valid-attachments": [{"containerID": "one", "ifname": "eth0"}]},
    {"cni.dev/attachments": [{"containerID": "two", "ifname": "eth0"}], "cni.dev/valid-attachments": None},
]
# Read anew each time: cheaper than a deep copy.
_TEMPLATE_TEXTS = [json.dumps(item) for item in TEMPLATES]
_EXTRA_TEXTS = [json.dumps(item) for item in EXTRAS]

TEXTS = (
    *(
        "",
        " ",
        "x",
        "eth0",
        "../x",
        "a/b",
        "é" * 8,
        "%d",
        "\0",
        "\u2028",
        "<&>",
        "a\r\nb",
        "x" * 300,
        ".",
        "lo",
    ),
    *("10.1.0.0/24", "10.1.0.5", "10.1.0.0/33", "10.1.0.0/31", "0.0.0.0/0", "255.255.255.255", "010.1.0.1"),
    *("::/0", "fd01::/64", "fd01::5", "::1", "::ffff:10.1.0.5/120", "fe80::1%eth0", "::/129", "10.1.0.0/-1"),
    *("02:00:00:00:00:01", "01:00:00:00:00:01", "0200.0000.0001", "00:00:00:00:00:00", "zz:00:00:00:00:00"),
    *("0.1.0", "0.4.0", "1.0.0", "1.1.0", "1.2.0", "1.", "v1", "1.1.1.1", "9" * 30, "-1.0.0", "host-local"),
    *("bridge", "addresses", "foreign", "missing", "nftables", "iptables", "true", "null", "4", "6"),
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    67,
    68,
    100,
    253,
    255,
    4094,
    4095,
    65536,
    1 << 31,
    1 << 32,
    1 << 63,
    1 << 64,
    -(1 << 63),
)
LETTERS = (*b'{}[]",:0123456789eE+-.\\u tfn\x00\xff\xc3\x80', *b"\n\r\t/")
PIECES = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e999", b"-0", b"\\ud800", b"\\u0000"),
    *(
        b'"name":',
        b'"NAME":null,',
        b'"cniVersion":"1.1.0",',
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"NaN",
        b"[" * 3000,
    ),
    *(b'{"a":' * 400, b"//", b"/*", b"'", b"\\", b"0" * 5000, b"1" + b"0" * 400, b"\xed\xa0\x80", b"{}"),
)
NAMES = ("net", "net", "net", "net", "other", "", "-x", "a b", "é", "x" * 300, "..", "a\n")
VERBS = (
    *("ADD",) * 40,
    *("DEL",) * 20,
    *("CHECK",) * 14,
    *("GC", "STATUS") * 6,
    *("VERSION", "", "add", "ADD ", "\udcff"),
)
VALUES = (
    *(
        "",
        "pod",
        "/bad",
        "-a",
        "a b",
        "é" * 8,
        "x" * 16,
        "..",
        "a:b",
        "lo",
        "%d",
        "/pod/0",
        "/pod/1",
        "/host",
    ),
    *(
        "IP=10.1.0.8",
        "MAC=02:00:00:00:00:09",
        "IgnoreUnknown=1;K8S=x",
        "K8S=x",
        "IP=",
        "=",
        ";;",
        "IP=1;IP=2",
    ),
    *("\udcff\udc80", "a\nb", "1", "true", "x" * 5000, "/opt/cni/bin:relative::/x"),
)
VARIABLES = (
    *("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"),
    *("CNI_NETNS_OVERRIDE", "PATH", "cni_command", "\udcfe"),
)


def environment(r: Random) -> Env:
    """Mostly a good one of one of four attachments."""
    env = {
        "CNI_COMMAND": r.choice(VERBS),
        "CNI_CONTAINERID": r.choice(("one", "two")),
        "CNI_NETNS": r.choice(("/pod/0", "/pod/1")),
        "CNI_IFNAME": r.choice(("eth0", "eth0", "net1")),
        "CNI_PATH": "/opt/cni/bin",
    }
    if r.random() < 0.3:
        env["CNI_ARGS"] = r.choice(VALUES)
    while r.random() < 0.12:
        name = r.choice(VARIABLES)
        if r.random() < 0.4:
            env.pop(name, None)
        else:
            env[name] = r.choice(VALUES)
    return env


def config(r: Random) -> dict[str, Any]:
    """A template, as it is or with some of its values replaced."""
    made: dict[str, Any] = json.loads(r.choice(_TEMPLATE_TEXTS)) | json.loads(r.choice(_EXTRA_TEXTS))
    made["name"] = r.choice(NAMES) if r.random() < 0.2 else "net"
    if r.random() < 0.95:
        made["cniVersion"] = r.choice((*SUPPORTED, "1.0.0", "1.1.0"))
    while r.random() < 0.6:
        _damage(r, made)
    return made


def standard_input(r: Random) -> bytes:
    """A config as bytes, now and then with the text or the bytes damaged too."""
    text = json.dumps(config(r), ensure_ascii=r.random() < 0.5, separators=(",", ":"))
    data = text.encode("utf-8", "surrogatepass")
    while r.random() < 0.12:
        data = damaged(r, data)
    return data


def _odd(r: Random, depth: int = 0) -> Any:
    kind = r.randrange(10 if depth < 3 else 7)
    if kind < 3:
        return r.choice(TEXTS)
    if kind < 5:
        return r.choice(NUMBERS)
    if kind < 7:
        return r.choice((None, True, False, 1.5, 1e300, -0.0, "", {}, []))
    if kind == 7:
        return [_odd(r, depth + 1) for _ in range(r.randrange(4))]
    if kind == 8:
        return {r.choice(TEXTS): _odd(r, depth + 1) for _ in range(r.randrange(4))}
    return copy.deepcopy(r.choice((RESULT, OLD_RESULT, HOST_LOCAL, V4_RANGE, DNS, ROUTES)))


def _damage(r: Random, root: dict[str, Any]) -> None:
    """Replace, remove, add, rename or repeat one member somewhere in the tree."""
    holder: Any = root
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = r.choice(keys)
        if isinstance(holder[key], dict | list) and r.random() < 0.7 and holder[key]:
            holder = holder[key]
            continue
        break
    way = r.randrange(8)
    if way < 4:
        holder[key] = _odd(r)
    elif way == 4:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(r.randrange(len(holder) + 1), copy.deepcopy(holder[key]) if way < 7 else _odd(r))
    elif way == 5:
        holder[str(key).upper() if r.random() < 0.5 else r.choice(TEXTS)] = _odd(r)
    elif way == 6:
        holder[str(key).swapcase()] = holder.pop(key)
    else:
        holder[key] = [holder[key]] if r.random() < 0.5 else {"x": holder[key]}


def damaged(r: Random, data: bytes) -> bytes:
    """One change to some bytes."""
    at = r.randrange(len(data) + 1)
    end = min(len(data), at + int(r.expovariate(0.1)))
    way = r.randrange(7)
    if way == 0:
        return data[:at] + bytes((r.choice(LETTERS),)) + data[at + 1 :]
    if way == 1:
        return data[:at] + r.choice(PIECES) + data[at:]
    if way == 2:
        return data[:at] + data[end:]
    if way == 3:
        return data[:end] + data[at:]
    if way == 4:
        return data[:at]
    if way == 5:
        return data[:at] + r.randbytes(r.randrange(5)) + data[end:]
    return data + r.choice((b"\n", b" ", b"{}", b"x", data))
