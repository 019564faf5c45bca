"""What a runtime, or a person's config, can get wrong, and what the answer has to be.

`$POD` and other such names are filled in by the test (`Node` in test_bad_input.py); configs are patches
(RFC 7396, None deletes) to the plugin's good config, or whole documents as bytes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

# A table is read line by line.
# fmt: off

PARSE = "error unmarshall network config: "
LOAD = "failed to load netconf: "
PAIR = "failed to make veth pair: "
PREV = "could not parse prevResult: "
ALL_VERSIONS = '["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]'


@dataclasses.dataclass(frozen=True)
class Case:
    """One refused request.

    `msg` is the whole message, or its beginning if it ends with "…"; `tells` are texts that the message or
    its details must hold, as a rule the key and the value. `env` replaces variables, None unsets them.
    `allocates` says that an address had been taken and was given back: the store keeps its lock and a hint
    where to go on.
    """

    title: str
    code: int
    msg: str
    tells: tuple[str, ...] = ()
    plugin: str = "bridge"
    verb: str = "ADD"
    config: dict[str, Any] | bytes = dataclasses.field(default_factory=dict)
    env: dict[str, str | None] = dataclasses.field(default_factory=dict)
    allocates: bool = False


def _variables() -> list[Case]:
    attachment = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
    nothing: dict[str, str | None] = dict.fromkeys(attachment)
    missing = {
        "ADD": attachment,
        "CHECK": attachment,
        "DEL": [name for name in attachment if name != "CNI_NETNS"],
        "GC": ["CNI_PATH"],
        "STATUS": ["CNI_PATH"],
    }
    cases = [
        Case(
            f"{verb} without variables",
            4,
            f"required env variables [{','.join(names)}] missing",
            (verb, *names),
            verb=verb,
            env=nothing,
        )
        for verb, names in missing.items()
    ]
    cases += [
        Case(f"empty {name}", 4, f"required env variables [{name}] missing", env={name: ""})
        for name in attachment
    ]
    cases += [
        Case(f"command {verb!r}", 4, f"unknown CNI_COMMAND: {verb}", ("ADD, CHECK, DEL",), verb=verb)
        for verb in ("FOO", "add", "ADD ", "VERSION2")
    ]
    cases += [
        Case(
            f"container id {name!r}",
            4,
            "invalid characters in containerID",
            (name.replace("\udcff", "\ufffd"),),
            env={"CNI_CONTAINERID": name},
        )
        for name in ("a/b", "../etc", "..", ".x", "-x", "a b", "a\n", "é", "a\\b", "a\udcff", "a;b", "*")
    ]
    character = "interface name contains / or : or whitespace characters"
    cases += [
        Case(f"interface name {name!r}", 4, msg, ("CNI_IFNAME", shown or name), env={"CNI_IFNAME": name})
        for name, msg, shown in (
            ("sixteen-bytes-xx", "interface name is too long", ""),
            ("é" * 8, "interface name is too long", ""),
            (".", "interface name is . or ..", ""),
            ("..", "interface name is . or ..", ""),
            ("a/b", character, ""),
            ("eth0:1", character, ""),
            ("a b", character, ""),
            ("a\u2003b", character, r"a\u2003b"),
            ("eth0\n", character, r"eth0\n"),
        )
    ]
    return [
        *cases,
        Case(
            "a bad container id wins over missing variables",
            4,
            "invalid characters in containerID",
            ("a/b",),
            env={**nothing, "CNI_CONTAINERID": "a/b"},
        ),
        Case(
            "an unknown command is told after a bad config",
            6,
            f"{PARSE}unexpected end of JSON input",
            verb="FOO",
            config=b"",
        ),
    ]


def _documents() -> list[Case]:
    """Standard input as a whole."""
    end = f"{PARSE}unexpected end of JSON input"
    syntax = {
        "nothing": (b"", end),
        "blanks": (b" \t\r\n", end),
        "a lone brace": (b"{", f"{PARSE}…"),
        "cut in a string": (b'{"name":"badn', f"{PARSE}…"),
        "cut after a member": (b'{"name":"badnet",', f"{PARSE}…"),
        "an array": (b"[]", f"{PARSE}json: cannot unmarshal array…"),
        "a string": (b'"badnet"', f"{PARSE}json: cannot unmarshal string…"),
        "a number": (b"1", f"{PARSE}json: cannot unmarshal number…"),
        "a boolean": (b"true", f"{PARSE}json: cannot unmarshal bool…"),
        "two documents": (b'{"name":"badnet"}{"name":"other"}', f"{PARSE}invalid character '{{' after…"),
        "text after the object": (b'{"name":"badnet"} x', f"{PARSE}invalid character 'x' after…"),
        "a trailing comma": (b'{"name":"badnet",}', f"{PARSE}…"),
        "single quotes": (b"{'name':'badnet'}", f"{PARSE}…"),
        "a comment": (b'{"name":"badnet"} // net', f"{PARSE}…"),
        "a number with a leading zero": (b'{"name":"badnet","mtu":01500}', f"{PARSE}…"),
        "NaN": (b'{"name":"badnet","mtu":NaN}', f"{PARSE}…"),
        "a raw tab in a string": (b'{"name":"bad\tnet"}', f"{PARSE}…"),
        "a byte order mark": (b'\xef\xbb\xbf{"name":"badnet"}', f"{PARSE}…"),
        "UTF-16": ('{"name":"badnet"}'.encode("utf-16"), f"{PARSE}…"),
        "bytes": (bytes(range(256)), f"{PARSE}…"),
        "zeros": (bytes(1000), f"{PARSE}…"),
        "20000 open arrays": (b'{"name":"badnet","x":' + b"[" * 20000, f"{PARSE}…"),
        "20000 nested arrays": (b'{"name":"badnet","x":' + b"[" * 20000 + b"]" * 20000 + b"}", f"{PARSE}…"),
        "20000 nested objects": (b'{"name":"badnet","x":' + b'{"x":' * 20000 + b"1" + b"}" * 20001,
            f"{PARSE}…"),
    }
    cases = [
        Case(f"standard input: {title}", 6, msg, ("standard input",), config=data)
        for title, (data, msg) in syntax.items()
    ]
    names: dict[str, bytes] = {
        "null": b"null",
        "{}": b"{}",
        "empty": b'{"name":""}',
        "null name": b'{"name":null}',
        "null last": b'{"name":"","name":null}',
    }
    cases += [
        Case(f"network name: {title}", 7, "missing network name", ('"name"',), config=data)
        for title, data in names.items()
    ]
    cases += [
        Case(
            f"network name {name!r}",
            7,
            "invalid characters found in network name",
            (name.replace("\ud800", "\ufffd"),),
            config=json.dumps({"name": name}).encode(),
        )
        for name in ("a/b", "../../etc", "..", ".net", "-a", "a b", "a\n", "é", "a\0b", "\ud800", "a\\b")
    ]
    cases += [
        Case("of two names the last one counts", 7, "invalid characters found in network name", ("a/b",),
             config=b'{"name":"badnet","name":"a/b"}'),
        Case("another spelling of a key is the same key", 7, "invalid characters found in network name",
             ("a/b",), config=b'{"name":"badnet","NAME":"a/b"}'),
        Case("invalid UTF-8 in the name", 7, "invalid characters found in network name", ("a\ufffd",),
             config=b'{"name":"a\xff"}'),
        Case("a config of 16 MiB", 5, "error reading from stdin: …", ("16777216", "16777215"),
             config=b'{"name":"badnet"}' + b" " * ((16 << 20) - 17)),
    ]
    return cases


def _versions() -> list[Case]:
    cases = [
        Case(
            f"cniVersion {version!r} at {verb}",
            1,
            "incompatible CNI versions",
            (f'config is "{version}", plugin supports {ALL_VERSIONS}',),
            plugin=plugin,
            verb=verb,
            config={"cniVersion": version},
        )
        for version, verb, plugin in (
            ("9.9.9", "ADD", "bridge"),
            ("1.2.0", "ADD", "host-local"),
            ("1.0", "ADD", "loopback"),
            ("01.0.0", "ADD", "bridge"),
            ("v1.0.0", "ADD", "bridge"),
            (" 1.0.0", "DEL", "bridge"),
            ("abc", "DEL", "bridge"),
            ("1.0.1", "CHECK", "bridge"),
            ("1.1", "GC", "bridge"),
        )
    ]
    cases += [
        Case(
            f"{verb} with cniVersion {version!r}",
            1,
            f"{who} version does not allow {verb}",
            (f'"{version or "0.1.0"}"',),
            verb=verb,
            config={"cniVersion": version},
        )
        for verb, version, who in (
            ("CHECK", "0.3.1", "config"),
            ("CHECK", None, "config"),
            ("CHECK", "2.0.0", "plugin"),
            ("GC", "1.0.0", "config"),
            ("STATUS", "1.0.0", "config"),
            ("STATUS", "1.2.0", "plugin"),
        )
    ]
    number = 'failed to convert {} version part "{}": …'
    cases += [
        Case(f"{verb} with cniVersion {version!r}", 6, msg, (version,), verb=verb,
             config={"cniVersion": version})
        for verb, version, msg in (
            ("CHECK", "abc", number.format("major", "abc")),
            ("CHECK", "1.", number.format("minor", "")),
            ("GC", "1.1.x", number.format("micro", "x")),
            ("STATUS", "1.2.3.4", 'invalid version "1.2.3.4": too many parts'),
            ("CHECK", "１.0.0", number.format("major", "１")),
        )
    ]
    return cases


def _sandboxes() -> list[Case]:
    """CNI_NETNS."""
    def case(title: str, path: str, reason: str, **more: Any) -> Case:
        return Case(f"sandbox: {title}", 999, reason.replace("PATH", path), (path,), env={"CNI_NETNS": path},
            **more)

    opened = 'failed to open netns "PATH": '
    gone = 'failed to Statfs "PATH": no such file or directory'
    foreign = 'unknown FS magic on "PATH": …'
    own = "plugin's netns and netns from CNI_NETNS should not be the same"
    cases = [
        case("missing", "/run/netns/none", opened + gone),
        case("missing, CHECK", "/run/netns/none", opened + gone, verb="CHECK"),
        case("missing, loopback", "/run/netns/none", gone, plugin="loopback"),
        case("missing, loopback CHECK", "/run/netns/none", gone, plugin="loopback", verb="CHECK"),
        case("below a file", "/dev/null/ns", opened + 'failed to Statfs "PATH": not a directory'),
        case("a name that is too long", "/run/" + "x" * 300,
             opened + 'failed to Statfs "PATH": file name too long'),
        case("a loop of links", "$DIR/loop",
             opened + 'failed to Statfs "PATH": too many levels of symbolic links'),
        case("a dangling link", "$DIR/dangling", opened + gone),
    ]
    cases += [
        case(title, path, opened + foreign)
        for title, path in {
            "a file": "$DIR/file",
            "a folder": "$DIR",
            "a device": "/dev/null",
            "a pipe without writer": "$DIR/fifo",
            "a mount namespace": "/proc/self/ns/mnt",
            "a file of /proc": "/proc/self/status",
        }.items()
    ]
    cases += [
        case("a file, CHECK", "$DIR/file", opened + foreign, verb="CHECK"),
        case("a file, DEL", "$DIR/file", foreign, verb="DEL"),
        case("a file, loopback DEL", "$DIR/file", foreign, plugin="loopback", verb="DEL"),
    ]
    cases += [
        Case(f"sandbox: the host's own, {plugin} {verb}, {path}", 8, own, (path, "CNI_NETNS_OVERRIDE"),
             plugin=plugin, verb=verb, env={"CNI_NETNS": path})
        for plugin, verb, path in (
            ("bridge", "ADD", "$HOST"),
            ("bridge", "DEL", "$HOST"),
            ("loopback", "ADD", "/proc/self/ns/net"),
            ("loopback", "DEL", "$HOST"),
            ("host-local", "ADD", "$DIR/host"),
        )
    ]
    cases += [
        Case(f"sandbox: the host's own with CNI_NETNS_OVERRIDE={word!r}", 8, own,
             env={"CNI_NETNS": "$HOST", "CNI_NETNS_OVERRIDE": word})
        for word in ("0", "yes", " true")
    ]
    exists = 'container veth name ("{}") peer provided ("veth…'
    cases += [
        Case("the interface is there already", 999, exists.format("eth0"), ("$TAKEN", "DEL"),
             env={"CNI_NETNS": "$TAKEN"}),
        Case("the interface is lo", 999, exists.format("lo"), ("$POD",), env={"CNI_IFNAME": "lo"}),
        Case("the interface is a pattern", 999, PAIR + "invalid argument", ("CNI_IFNAME", "eth%d"),
             env={"CNI_IFNAME": "eth%d"}),
    ]
    return cases


def _bridge() -> list[Case]:
    def case(key: str, value: Any, msg: str, *tells: str, **more: Any) -> Case:
        return Case(f"{key} {value!r}"[:60], 999, msg, (key, *tells), config={key: value} | more)

    bridge = 'failed to create bridge "{0}": could not add "{0}": {1}'
    mac = PAIR
    cases = [
        case("bridge", "", bridge.format("", "LinkAttrs.Name cannot be empty")),
        case("bridge", "sixteen-bytes-xx",
             bridge.format("sixteen-bytes-xx", "numerical result out of range")),
        case("bridge", "a/b", bridge.format("a/b", "invalid argument")),
        case("bridge", "a b", bridge.format("a b", "invalid argument")),
        case("bridge", "a:b", bridge.format("a:b", "invalid argument")),
        case("bridge", "..", bridge.format("..", "invalid argument")),
        case("bridge", "br%d", bridge.format("br%d", "invalid argument")),
        case("bridge", "br\0x", bridge.format("br\0x", "invalid argument"), "NUL"),
        case("bridge", "lo", 'failed to create bridge "lo": "lo" already exists but is not a bridge'),
        case("mtu", 1, mac + "invalid argument", "1"),
        case("mtu", 67, mac + "invalid argument", "67"),
        case("mtu", 65536, mac + "invalid argument", "65536"),
        case("mtu", 1 << 63, LOAD + "…", str(1 << 63)),
        case("vlan", 4095, "invalid VLAN ID 4095 (must be between 0 and 4094)"),
        case("vlan", -1, "invalid VLAN ID -1 (must be between 0 and 4094)"),
        case("vlanTrunk", [{"minID": 0, "maxID": 5}], "incorrect trunk minID parameter", "0"),
        case("vlanTrunk", [{"minID": 1, "maxID": 4095}], "incorrect trunk maxID parameter", "4095"),
        case("vlanTrunk", [{"id": 4095}], "incorrect trunk id parameter", "4095"),
        case("vlanTrunk", [{"minID": 5, "maxID": 2}], "minID is greater than maxID in trunk parameter", "5",
             "2"),
        case("vlanTrunk", [{"id": 7}, {"maxID": 5}],
             "minID and maxID should be configured simultaneously, minID is missing", "vlanTrunk[1]"),
        case("vlanTrunk", [{"minID": 5}],
             "minID and maxID should be configured simultaneously, maxID is missing"),
        case("vlanTrunk", [None], LOAD + "…", "null", "vlanTrunk[0]"),
        case("ipMasqBackend", "pf", 'unknown ipmasq backend "pf"', "nftables", ipMasq=True),
        case("promiscMode", True, "cannot set hairpin mode and promiscuous mode at the same time",
             "hairpinMode", hairpinMode=True),
        case("disableContainerInterface", True, "cannot use IPAM when DisableContainerInterface flag is set",
             "ipam", "host-local"),
        case("bridge", {"x": [[[["y"]]]]}, LOAD + "…", "object"),
    ]
    for where, patch in {
        "args.cni.mac": lambda text: {"args": {"cni": {"mac": text}}},
        "runtimeConfig.mac": lambda text: {"runtimeConfig": {"mac": text}},
    }.items():
        cases += [
            Case(f"{where} {text!r}", 999, mac + msg, (where, text), config=patch(text))
            for text, msg in (
                ("zz", "address zz: invalid MAC address"),
                ("02:00:00:00:00:1", "address 02:00:00:00:00:1: invalid MAC address"),
                ("02:00:00:00:00:00:00:01", "invalid argument"),
                ("01:00:00:00:00:01", "cannot assign requested address"),
                ("00:00:00:00:00:00", "cannot assign requested address"),
            )
        ]
    cases += [
        Case("MAC in CNI_ARGS", 999, mac + "address zz: invalid MAC address", ("MAC", "zz", "CNI_ARGS"),
             env={"CNI_ARGS": "MAC=zz"}),
        Case("layer 2 in an old version", 999, "cannot convert: no valid IP addresses", ("0.2.0",),
             config={"cniVersion": "0.2.0", "ipam": None}),
    ]
    return cases


def _arguments() -> list[Case]:
    """CNI_ARGS."""
    return [
        Case(f"CNI_ARGS {text!r}, {plugin}", 999, msg, ("CNI_ARGS", *tells), plugin=plugin,
             env={"CNI_ARGS": text})
        for plugin, text, msg, *tells in (
            ("bridge", "IP", 'ARGS: invalid pair "IP"'),
            ("bridge", "IP=10.71.0.9;", 'ARGS: invalid pair ""', "IP=10.71.0.9;"),
            ("host-local", "IP=1=2", 'ARGS: invalid pair "IP=1=2"'),
            ("bridge", "K8S_POD_NAME=x;COLOUR=red", 'ARGS: unknown args ["K8S_POD_NAME=x" "COLOUR=red"]',
                "IgnoreUnknown"),
            ("host-local", "ip=10.71.0.9", 'ARGS: unknown args ["ip=10.71.0.9"]'),
            ("bridge", "IgnoreUnknown=yes",
             'ARGS: error parsing value of pair "IgnoreUnknown=yes": '
             "boolean unmarshal error: invalid input yes"),
            ("bridge", "IP=banana",
                'ARGS: error parsing value of pair "IP=banana": invalid IP address banana'),
            ("host-local", "IP=10.71.0.9/33",
                'ARGS: error parsing value of pair "IP=10.71.0.9/33": invalid IP address 10.71.0.9/33'),
            ("host-local", "A=\udcff", 'ARGS: unknown args ["A=\\xff"]'),
        )
    ]


def _ranges() -> list[Case]:
    """host-local's members, alone."""
    def case(title: str, msg: str, ipam: dict[str, Any], *tells: str, **config: Any) -> Case:
        return Case(f"host-local: {title}", 999, msg, tells, plugin="host-local",
            config={"ipam": ipam, **config})

    def ranges(title: str, msg: str, *sets: Any, tells: tuple[str, ...] = (), **config: Any) -> Case:
        return case(title, msg, {"ranges": list(sets)}, *tells, **config)

    def one(title: str, problem: str, *tells: str, **members: Any) -> Case:
        return ranges(title, f"invalid range set 0: {problem}", [members], tells=tells)

    net = "10.71.0.0/24"
    return [
        Case("host-local: no ipam", 999, "IPAM config missing 'ipam' key", ('"ipam"',), plugin="host-local",
             config={"ipam": None}),
        case("no range", "no IP ranges specified", {"ranges": None}, "ipam.ranges"),
        ranges("no range set", "no IP ranges specified", tells=("ipam.ranges",)),
        ranges("empty range set", "invalid range set 0: empty range set", [], tells=("ipam.ranges[0]",)),
        ranges("second set empty", "invalid range set 1: empty range set", [{"subnet": net}], [],
             tells=("ipam.ranges[1]",)),
        ranges("a flat list", "json: cannot unmarshal object…", {"subnet": net},
             tells=("ipam.ranges[0]", net)),
        ranges("a null range", "json: cannot unmarshal null…", [None], tells=("ipam.ranges[0][0]",)),
        one("no subnet", "IP <nil> not v4 nor v6", "subnet", rangeStart="10.71.0.5"),
        ranges("subnet in words", "invalid CIDR address: banana", [{"subnet": "banana"}],
             tells=("ipam.ranges[0][0].subnet",)),
        ranges("empty subnet", "invalid CIDR address: ", [{"subnet": ""}],
             tells=("ipam.ranges[0][0].subnet",)),
        ranges("subnet without length", "invalid CIDR address: 10.71.0.0", [{"subnet": "10.71.0.0"}],
             tells=("ipam.ranges[0][0].subnet",)),
        ranges("subnet with a mask", "invalid CIDR address: 10.71.0.0/255.255.255.0",
             [{"subnet": "10.71.0.0/255.255.255.0"}], tells=("subnet",)),
        ranges("leading zeros", "invalid CIDR address: 010.71.0.0/24", [{"subnet": "010.71.0.0/24"}],
             tells=("subnet",)),
        ranges("prefix of 33", "invalid CIDR address: 10.71.0.0/33", [{"subnet": "10.71.0.0/33"}],
             tells=("subnet",)),
        ranges("a subnet with a NUL", "invalid CIDR address: …", [{"subnet": "10.71.0.0\0/24"}],
             tells=("subnet",)),
        one("/31", "Network 10.71.0.0/31 too small to allocate from", "/30", subnet="10.71.0.0/31"),
        one("/32", "Network 10.71.0.1/32 too small to allocate from", "/30", subnet="10.71.0.1/32"),
        one("/127", "Network fd71::/127 too small to allocate from", "/126", subnet="fd71::/127"),
        one("host bits",
             "Network has host bits set. For a subnet mask of length 24 the network address is 10.71.0.0",
            "10.71.0.5/24", "subnet", subnet="10.71.0.5/24"),
        one("mapped subnet", "IPNet IP and Mask version mismatch", "10.71.0.0/24",
             subnet="::ffff:10.71.0.0/120"),
        one("start outside", "RangeStart 10.72.0.1 not in network 10.71.0.0/24", subnet=net,
             rangeStart="10.72.0.1"),
        one("end outside", "RangeEnd 10.72.0.1 not in network 10.71.0.0/24", subnet=net,
             rangeEnd="10.72.0.1"),
        one("start after end", "RangeStart 10.71.0.9 not in network 10.71.0.0/24", "10.71.0.3", subnet=net,
             rangeStart="10.71.0.9", rangeEnd="10.71.0.3"),
        one("start of another family", "RangeStart fd71::5 not in network 10.71.0.0/24", subnet=net,
             rangeStart="fd71::5"),
        *(
            ranges(f"{key} in words", "invalid IP address: banana", [{"subnet": net, key: "banana"}],
                 tells=(f"ipam.ranges[0][0].{key}",))
            for key in ("rangeStart", "rangeEnd", "gateway")
        ),
        ranges("gateway with length", "invalid IP address: 10.71.0.1/24",
             [{"subnet": net, "gateway": "10.71.0.1/24"}], tells=("gateway",)),
        ranges("families in one set", "invalid range set 0: mixed address families",
             [{"subnet": net}, {"subnet": "fd71::/64"}], tells=(net, "fd71::/64")),
        ranges("overlap in a set",
             "invalid range set 0: subnets 10.71.0.1-10.71.0.254 and 10.71.0.1-10.71.0.126 overlap",
               [{"subnet": net}, {"subnet": "10.71.0.0/25"}]),
        ranges("overlap of sets", "range set 0 overlaps with 1", [{"subnet": net}],
             [{"subnet": "10.71.0.128/25"}], tells=("10.71.0.1-10.71.0.254", "10.71.0.129-10.71.0.254")),
        ranges("two sets of a family in an old version",
             "CNI version 0.2.0 does not support more than 1 address per family",
               [{"subnet": net}], [{"subnet": "10.72.0.0/24"}], cniVersion="0.2.0"),
        case("overlap with the capability", "range set 0 overlaps with 1", {},
             runtimeConfig={"ipRanges": [[{"subnet": net}]]}),
        case("bad legacy subnet", "invalid CIDR address: banana", {"subnet": "banana"}, "ipam.subnet"),
        case("bad capability range", "invalid CIDR address: banana", {},
             "runtimeConfig.ipRanges[0][0].subnet",
             runtimeConfig={"ipRanges": [[{"subnet": "banana"}]]}),
        case("route without destination", "ipam.routes[0].dst is missing", {"routes": [{"gw": "10.71.0.1"}]},
             "ipam.routes"),
        case("null route", "ipam.routes[0] is null", {"routes": [None]}, "ipam.routes[0]", "null"),
        case("route to nowhere", "invalid CIDR address: banana", {"routes": [{"dst": "banana"}]},
             "ipam.routes[0].dst"),
        case("route through nothing", "invalid IP address: banana",
             {"routes": [{"dst": "0.0.0.0/0", "gw": "banana"}]}, "ipam.routes[0].gw"),
        case("route with a wrong mtu", "json: cannot unmarshal string…",
             {"routes": [{"dst": "0.0.0.0/0", "mtu": "x"}]}, "ipam.routes[0].mtu"),
        case("requested address in words", "invalid IP address bad", {}, "runtimeConfig.ips[0]",
             runtimeConfig={"ips": ["bad"]}),
        case("requested address in args", "invalid IP address bad", {}, "args.cni.ips[1]",
             args={"cni": {"ips": ["10.71.0.9", "bad"]}}),
        case("empty requested address", "cannot understand ip: IP <nil> not v4 nor v6", {},
             "runtimeConfig.ips[0]", runtimeConfig={"ips": [""]}),
        case("dataDir is a file", "mkdir $DIR/file: not a directory", {"dataDir": "$DIR/file"},
             "ipam.dataDir"),
        case("dataDir in /proc", "mkdir /proc/none…", {"dataDir": "/proc/none"}, "ipam.dataDir"),
        case("dataDir with a NUL", "open $DATA/a\0b: invalid argument", {"dataDir": "$DATA/a\0b"},
             "ipam.dataDir"),
        case("dataDir with half a character", "mkdir /proc/\ufffd: no such file or directory",
             {"dataDir": "/proc/\ud800"}, "ipam.dataDir"),
        case("resolvConf missing", "open /nonexistent: no such file or directory",
             {"resolvConf": "/nonexistent"}, "ipam.resolvConf"),
        case("resolvConf is a folder", "read $DIR: is a directory", {"resolvConf": "$DIR"},
             "ipam.resolvConf"),
        case("resolvConf with a NUL", "open /etc/\0: invalid argument", {"resolvConf": "/etc/\0"},
             "ipam.resolvConf"),
        case("name of a file that is too long", "mkdir $DATA/" + "n" * 300 + ": file name too long", {},
             "ipam.dataDir", name="n" * 300),
        case("STATUS", "invalid range set 0: Network 10.71.0.0/31 too small to allocate from",
             {"ranges": [[{"subnet": "10.71.0.0/31"}]]}),
    ]


def _delegates() -> list[Case]:
    def case(title: str, code: int, msg: str, type_: str, *tells: str, **more: Any) -> Case:
        return Case(f"IPAM: {title}", code, msg, tells, config={"ipam": {"type": type_}}, **more)

    return [
        case("not there", 999, 'failed to find plugin "nosuch" in path [$BIN]', "nosuch"),
        case("not there, several folders", 999, 'failed to find plugin "nosuch" in path [/nowhere $BIN]',
             "nosuch", env={"CNI_PATH": "/nowhere:$BIN"}),
        case("not there, CHECK", 999, 'failed to find plugin "nosuch" in path [$BIN]', "nosuch",
             verb="CHECK"),
        case("not there, DEL", 999, 'failed to find plugin "nosuch" in path [$BIN]', "nosuch", verb="DEL"),
        case("not there, STATUS", 50, 'failed to find plugin "nosuch" in path [$BIN]', "nosuch",
             verb="STATUS"),
        case("a path", 999, "invalid plugin name: ../host-local", "../host-local"),
        case("an absolute path", 999, "invalid plugin name: $BIN/host-local", "$BIN/host-local"),
        case("a NUL", 999, "invalid plugin name: host\0local", "host\0local"),
        case("dots", 999, 'failed to find plugin ".." in path [$BIN]', ".."),
        case("upper case", 999, 'failed to find plugin "HOST-LOCAL" in path [$BIN]', "HOST-LOCAL"),
        case("a folder", 999, 'failed to find plugin "folder" in path [$FOREIGN]', "folder",
             env={"CNI_PATH": "$FOREIGN"}),
        case("not executable", 999, 'failed to find plugin "plain" in path [$FOREIGN]', "plain",
             "not executable", env={"CNI_PATH": "$FOREIGN"}),
        case("without interpreter", 0,
             "netplugin failed with no error message: fork/exec $FOREIGN/lost: no such file or directory",
             "lost", env={"CNI_PATH": "$FOREIGN"}),
        case("no program", 0,
             "netplugin failed with no error message: fork/exec $FOREIGN/noise: exec format error", "noise",
             env={"CNI_PATH": "$FOREIGN"}),
        case("that only fails", 0, "netplugin failed with no error message: exit status 3", "fails",
             env={"CNI_PATH": "$FOREIGN"}),
        case("that complains", 0, 'netplugin failed: "no addresses left\\n"', "complains",
             env={"CNI_PATH": "$FOREIGN"}),
        case("that prints no JSON", 0,
             'netplugin failed but error parsing its diagnostic message "boom\\n": …', "prints",
             env={"CNI_PATH": "$FOREIGN"}),
        case("that says nothing", 999, "failed to unmarshal raw result: unexpected end of JSON input",
             "silent", env={"CNI_PATH": "$FOREIGN"}),
        case("with its own code", 123, "pool empty", "coded", "ask the administrator",
             env={"CNI_PATH": "$FOREIGN"}),
        case("without addresses", 999, "IPAM plugin returned missing IP config", "empty",
             env={"CNI_PATH": "$FOREIGN"}),
        case("with a bad result", 999, "invalid CIDR address: banana", "banana",
             env={"CNI_PATH": "$FOREIGN"}),
        case("of an unknown version", 999, 'unsupported CNI result version "7.0.0"', "future",
             env={"CNI_PATH": "$FOREIGN"}),
        case("is the bridge itself", 999, LOAD + "bridge cannot be its own IPAM plugin", "bridge",
             "ipam.type"),
        Case("IPAM: its config is bad", 999,
             "invalid range set 0: Network 10.71.0.0/31 too small to allocate from",
             config={"ipam": {"ranges": [[{"subnet": "10.71.0.0/31"}]]}}),
        *(
            Case(f"IPAM: a route with {key} {value}", 999,
                 "failed to add route '10.99.0.0/16 via 10.71.0.1 dev eth0 metric …", (key, str(value)),
                 config={"ipam": {"routes": [{"dst": "10.99.0.0/16", "gw": "10.71.0.1", key: value}]}},
                 allocates=True)
            for key, value in (("mtu", 1 << 32), ("advmss", 1 << 40), ("priority", 1 << 32),
                               ("table", 1 << 33), ("table", -1), ("scope", 256), ("scope", -1))
        ),
        Case("IPAM: overlap", 999, "range set 0 overlaps with 1",
             config={"ipam": {"ranges": [[{"subnet": "10.71.0.0/24"}], [{"subnet": "10.71.0.0/16"}]]}}),
    ]


def _previous_results() -> list[Case]:
    def case(title: str, msg: str, value: Any, *tells: str, **more: Any) -> Case:
        config = {"ipam": None, "prevResult": value, **more.pop("config", {})}
        return Case(f"prevResult: {title}", more.pop("code", 999), msg, tells, verb="CHECK", config=config,
            **more)

    address = {"address": "10.71.0.2/24", "interface": 2}
    return [
        Case("prevResult: none at CHECK", 999, "Required prevResult missing", ("prevResult",), verb="CHECK",
             config={"ipam": None}),
        case("an array", LOAD + "…", [], "prevResult", "array"),
        case("text", LOAD + "…", "10.71.0.2", "prevResult", "10.71.0.2"),
        Case("prevResult: an array at ADD", 999, LOAD + "…", ("prevResult", "array"),
             config={"prevResult": []}),
        case("another family",
             PREV + 'result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is "0.4.0"',
             {"cniVersion": "0.4.0"}, "1.1.0"),
        case("unknown version",
             PREV + 'result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is "9.9.9"',
             {"cniVersion": "9.9.9"}),
        case("version of a wrong type", PREV + "json: cannot unmarshal number…", {"cniVersion": 1},
             "cniVersion"),
        case("bad address", PREV + "invalid CIDR address: banana", {"ips": [address | {"address": "banana"}]},
             "ips[0].address"),
        case("bad gateway", PREV + "invalid IP address: banana", {"ips": [address | {"gateway": "banana"}]},
             "ips[0].gateway"),
        case("bad route", PREV + "invalid CIDR address: banana", {"routes": [{"dst": "banana"}]},
             "routes[0].dst"),
        case("bad index", PREV + "json: cannot unmarshal string…", {"ips": [address | {"interface": "2"}]},
             "ips[0].interface"),
        case("addresses that are no list", PREV + "json: cannot unmarshal object…", {"ips": {"x": 1}}, "ips"),
        case("a null address", PREV + "ips[0] is null", {"ips": [None]}, code=6),
        case("an address without address", PREV + "ips[0].address is missing", {"ips": [{}]}, code=6),
        case("interfaces that are text", PREV + "json: cannot unmarshal string…", {"interfaces": ["eth0"]},
             "interfaces[0]", "eth0"),
        case("without interfaces", "Interface name missing …", {"ips": [address]}),
        Case("prevResult: bad address, loopback ADD", 999,
             f"failed to parse prevResult: {PREV}invalid CIDR address: banana",
             ("ips[0].address",), plugin="loopback", config={"prevResult": {"ips": [{"address": "banana"}]}}),
    ]


def _collections() -> list[Case]:
    """GC and STATUS."""
    def gc(title: str, msg: str, value: Any, *tells: str, **more: Any) -> Case:
        key = more.pop("key", "cni.dev/valid-attachments")
        return Case(f"GC: {title}", 7, msg, (key, *tells), verb="GC", config={key: value}, **more)

    wrong = "json: cannot unmarshal {}…"
    return [
        gc("text", wrong.format("string"), "all"),
        gc("an object", wrong.format("object"), {"containerID": "a"}),
        gc("a list of text", wrong.format("string"), ["a"], "[0]"),
        gc("a null", wrong.format("null"), [None], "[0]", plugin="host-local"),
        gc("no container", "cni.dev/valid-attachments[0].containerID is missing", [{"ifname": "eth0"}]),
        gc("no interface", "cni.dev/valid-attachments[1].ifname is missing",
             [{"containerID": "a", "ifname": "b"}, {"containerID": "a"}], plugin="host-local"),
        gc("a number", wrong.format("number"), [{"containerID": 5, "ifname": "b"}], "[0].containerID", "5"),
        gc("the other key", "cni.dev/attachments[0].containerID is missing", [{}], key="cni.dev/attachments"),
        Case("STATUS: ipam of a wrong type", 999, LOAD + "…", ("ipam", "5"), verb="STATUS",
             config={"ipam": 5}),
        Case("STATUS: mtu of a wrong type", 999, LOAD + "…", ("mtu", "1500"), verb="STATUS",
             config={"mtu": "1500"}),
        Case("STATUS: bad range", 999, "invalid CIDR address: banana", ("ipam.ranges[0][0].subnet",),
             verb="STATUS", config={"ipam": {"ranges": [[{"subnet": "banana"}]]}}),
    ]


CASES = [
    *_variables(),
    *_documents(),
    *_versions(),
    *_sandboxes(),
    *_bridge(),
    *_arguments(),
    *_ranges(),
    *_delegates(),
    *_previous_results(),
    *_collections(),
]
