"""host-local alone: lives of reservations, and the configs it refuses."""

from __future__ import annotations

from typing import Any

from differential.case import Call, Case, Config, Shell, Step, call, subnet

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


def net(*sets: list[dict[str, str]], **more: Any) -> Config:
    """A config; `ipam` among `more` adds to that part."""
    part = {"type": "host-local", "dataDir": "$DATADIR", "ranges": list(sets), **more.pop("ipam", {})}
    return {"ipam": part, **more}


def _call(verb: str, owner: str, config: Config | bytes, **more: Any) -> Call:
    return call(verb, config, container_id=owner, plugin="host-local", netns="/run/netns/none", **more)


def add(owner: str, config: Config | bytes, **more: Any) -> Call:
    return _call("ADD", owner, config, **more)


def delete(owner: str, config: Config | bytes, **more: Any) -> Call:
    return _call("DEL", owner, config, **more)


def check(owner: str, config: Config | bytes, **more: Any) -> Call:
    return _call("CHECK", owner, config, since="0.4.0", **more)


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
        add("b", {"ipam": {"dataDir": "$DATADIR", "subnet": "10.2.0.0/24"}}),
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
                    "DataDir": "$DATADIR",
                    "RANGES": [[{"Subnet": "10.0.0.0/24", "RANGEsTART": "10.0.0.7"}]],
                    "Routes": [{"DST": "0.0.0.0/0", "GW": "10.0.0.1"}],
                },
                "RuntimeConfig": {"IPs": ["10.0.0.9"]},
            },
        ),
    ],
}


def bad(*sets: list[dict[str, str]], **more: Any) -> list[Step]:
    return [add("a", net(*sets, **more))]


GOOD = [subnet("10.0.0.0/24")]

REFUSED: dict[str, list[Step]] = {
    "no ipam": [add("a", {}), check("a", {}), delete("a", {})],
    "ipam null": [add("a", {"ipam": None})],
    "no ranges": [*bad(), check("a", net())],
    "ranges null": bad(ipam={"ranges": None}),
    "empty set": bad([]),
    "set null": [add("a", {"ipam": {"dataDir": "$DATADIR", "ranges": [GOOD, None]}})],
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


def folder(*commands: str) -> Shell:
    """Prepare the network's folder by commands of sh that start in it."""
    return Shell("mkdir -p $DATADIR/diffnet; cd $DATADIR/diffnet; " + "; ".join(commands))


FULL = net(
    [subnet("10.0.0.0/29")],
    [subnet("fd00::/126")],
    ipam={
        "routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "10.9.1.2/16", "gw": "10.0.0.9"},
            {"dst": "::/0", "gw": "fd00::9"},
            {"dst": "fd09::/64"},
        ],
        "resolvConf": "$FILES/resolv.conf",
    },
)
RESOLV_CONF = """\
# comment
; another
   nameserver   10.0.0.53   ignored
nameserver fd00::53
domain first
domain second
search a b
search c
options ndots:2
options edns0 rotate
nameserver
sortlist 10.0.0.0
"""
ADOPTED: dict[str, list[Step]] = {
    "legacy entry": [
        folder("printf a >10.0.0.2"),
        check("a", V4),
        add("a", V4),
        delete("a", V4),
        check("a", V4),
    ],
    "legacy entry, two sets": [
        folder("printf a >10.0.0.2", "printf 'a\\r\\neth0' >10.0.0.3"),
        delete("a", DUAL),
    ],
    "legacy entry beside a new one": [
        folder("printf a >10.0.0.2", "printf 'a\\r\\neth0' >10.0.0.3"),
        delete("a", V4),
        delete("a", V4),
    ],
    "entry with a line feed alone": [
        folder("printf 'a\\neth0' >10.0.0.2"),
        check("a", V4),
        add("a", V4),
        delete("a", V4),
    ],
    "entry with white space around it": [
        folder("printf ' a\\r\\neth0 \\n' >10.0.0.2"),
        check("a", V4),
        add("a", V4),
        delete("a", V4),
    ],
    "empty entry": [folder(": >10.0.0.2"), add("a", V4), delete("a", V4), add("b", V4)],
    "other files": [folder("printf x >10.0.0.2.bak", "printf x >README"), add("x", V4), delete("a", V4)],
    "an entry that is a folder": [folder("mkdir 10.0.0.2"), add("a", V4), delete("a", V4)],
    "last address garbage": [folder("printf banana >last_reserved_ip.0"), add("a", V4)],
    "last address empty": [folder(": >last_reserved_ip.0"), add("a", V4)],
    "last address with a line feed": [folder("echo 10.0.0.4 >last_reserved_ip.0"), add("a", V4)],
    "last address outside": [folder("printf 10.9.0.4 >last_reserved_ip.0"), add("a", V4)],
    "last address the gateway": [folder("printf 10.0.0.1 >last_reserved_ip.0"), add("a", V4)],
    "last address the end": [folder("printf 10.0.0.6 >last_reserved_ip.0"), add("a", V4)],
    "last address the broadcast address": [folder("printf 10.0.0.7 >last_reserved_ip.0"), add("a", V4)],
    "last address of the other family": [folder("printf fd00::2 >last_reserved_ip.0"), add("a", V4)],
    "last address free": [folder("printf 10.0.0.3 >last_reserved_ip.0"), add("a", V4)],
    "full but for the last address": [
        folder("printf 10.0.0.3 >last_reserved_ip.0", "for n in 2 4 5 6; do printf x >10.0.0.$n; done"),
        add("a", V4),
        add("b", V4),
    ],
    "reserved outside the ranges": [
        folder("printf 'a\\r\\neth0' >192.0.2.1"),
        check("a", V4),
        add("a", V4),
        delete("a", V4),
    ],
    "ranges changed between ADD and DEL": [add("a", V4), delete("a", net([subnet("10.7.0.0/24")]))],
    "ranges changed between ADD and CHECK": [add("a", V4), check("a", net([subnet("10.7.0.0/24")]))],
    "second set full": [*(add(name, DUAL) for name in "abc"), add("d", DUAL), delete("d", DUAL)],
    "second interface": [
        add("a", DUAL),
        add("a", DUAL, ifname="eth1"),
        delete("a", DUAL),
        check("a", DUAL),
        check("a", DUAL, ifname="eth1"),
        delete("a", DUAL, ifname="eth1"),
    ],
    "two networks": [
        add("a", V4),
        add("a", V4 | {"name": "other"}, ifname="eth1"),
        delete("a", V4),
        check("a", V4 | {"name": "other"}, ifname="eth1"),
        delete("a", V4 | {"name": "other"}, ifname="eth1"),
    ],
    "names at their limits": [
        add("a" * 300, V4 | {"name": "n" * 200}),
        check("a" * 300, V4 | {"name": "n" * 200}),
        delete("a" * 300, V4 | {"name": "n" * 200}),
    ],
    "network name too long for a folder": [add("a", V4 | {"name": "n" * 300})],
    "data folder with a slash at its end": [
        add("a", net([subnet("10.0.0.0/29")], ipam={"dataDir": "$DATADIR/deep/er/"}))
    ],
    "data folder is a file": [add("a", net([subnet("10.0.0.0/29")], ipam={"dataDir": "$FILES/resolv.conf"}))],
    "nothing there": [delete("a", V4), check("a", V4), delete("a", V4)],
    "requested twice": [
        add("a", V4, CNI_ARGS="IP=10.0.0.5"),
        add("a", V4, CNI_ARGS="IP=10.0.0.6"),
        check("a", V4),
        delete("a", V4),
    ],
    "requested, one of them elsewhere": [
        add("a", V4 | {"runtimeConfig": {"ips": ["10.0.0.5", "10.0.0.99"]}})
    ],
    "requested: network and broadcast address": [
        add("a", V4, CNI_ARGS="IP=10.0.0.0"),
        add("a", V4, CNI_ARGS="IP=10.0.0.7"),
    ],
    "duplicate in the second set": [
        folder("printf 'a\\r\\neth0' >fd00::2"),
        add("a", DUAL),
        check("a", DUAL),
        delete("a", DUAL),
    ],
    "bad config at DEL": [add("a", V4), delete("a", net([subnet("10.0.0.1/29")]))],
    "no ranges at DEL": [add("a", V4), delete("a", net())],
    "bad CNI_ARGS at DEL": [add("a", V4), delete("a", V4, CNI_ARGS="x")],
    "MAC among CNI_ARGS": [add("a", V4, CNI_ARGS="MAC=02:00:00:00:00:01")],
    "prevResult beside CHECK": [
        add("a", V4),
        check(
            "a", V4 | {"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/29"}]}}, prev=False
        ),
        check(
            "a",
            V4 | {"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.2/29"}]}},
            prev=False,
        ),
        check(
            "a", V4 | {"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.4/29"}]}}, prev=False
        ),
    ],
    "route without destination": [
        add("a", net([subnet("10.0.0.0/29")], ipam={"routes": [{"gw": "10.0.0.1"}]}))
    ],
    "route null": [add("a", net([subnet("10.0.0.0/29")], ipam={"routes": [None]}))],
    "routes as they are": [
        add(owner, net([subnet("10.0.0.0/29")], ipam={"routes": routes}))
        for owner, routes in (
            ("a", []),
            ("b", None),
            ("c", [{"dst": "10.9.1.2/16"}, {"dst": "10.9.1.2/16"}]),
        )
    ],
}
FULL_LIFE: list[Step] = [
    add("a", FULL),
    add("a", FULL),
    check("a", FULL),
    add("b", FULL, ifname="net1"),
    add("c", FULL, CNI_ARGS="IP=10.0.0.6"),
    delete("a", FULL),
    check("a", FULL),
    add("d", FULL),
    delete("b", FULL, ifname="net1"),
    delete("b", FULL, ifname="net1"),
]


def _cases() -> dict[str, Case]:
    files = (("resolv.conf", RESOLV_CONF),)
    cases = {f"life: {name}": Case(tuple(steps), pods=0) for name, steps in LIVES.items()}
    cases |= {f"refused: {name}": Case(tuple(steps), pods=0) for name, steps in REFUSED.items()}
    cases |= {f"adopted: {name}": Case(tuple(steps), pods=0, files=files) for name, steps in ADOPTED.items()}
    cases["life of everything"] = Case(tuple(FULL_LIFE), VERSIONS, pods=0, files=files)
    cases["one address"] = Case((add("a", V4), check("a", V4), delete("a", V4)), VERSIONS, pods=0)
    return cases


CASES: dict[str, Case] = _cases()
