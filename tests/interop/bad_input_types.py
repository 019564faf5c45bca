"""Every key of the plugins' configs with its type, and values of all other types."""

from __future__ import annotations

import json
import re
from typing import Any

from bad_input_cases import Case

WRONG: dict[str, tuple[Any, ...]] = {
    "string": (5, True, ["x"], {"x": "y"}),
    "bool": ("true", 1, [True], {"x": True}),
    "int": ("1", 1.5, 1e300, True, [1], {"x": 1}),
    "object": ("x", 5, True, ["x"]),
    "array": ("x", 5, True, {"x": 1}),
}
_RANGE = {"subnet": "string", "rangeStart": "string", "rangeEnd": "string", "gateway": "string"}
_DNS = {"dns": "object", "dns.domain": "string"} | {
    f"dns.{key}": kind
    for name in ("nameservers", "search", "options")
    for key, kind in ((name, "array"), (f"{name}[]", "string"))
}
KEYS: dict[str, dict[str, str]] = {
    "bridge": {
        "type": "string",
        "capabilities": "object",
        "capabilities.mac": "bool",
        "prevResult": "object",
        "bridge": "string",
        "isGateway": "bool",
        "isDefaultGateway": "bool",
        "forceAddress": "bool",
        "ipMasq": "bool",
        "ipMasqBackend": "string",
        "mtu": "int",
        "hairpinMode": "bool",
        "promiscMode": "bool",
        "vlan": "int",
        "vlanTrunk": "array",
        "vlanTrunk[]": "object",
        "vlanTrunk[].minID": "int",
        "vlanTrunk[].maxID": "int",
        "vlanTrunk[].id": "int",
        "preserveDefaultVlan": "bool",
        "macspoofchk": "bool",
        "enabledad": "bool",
        "disableContainerInterface": "bool",
        "portIsolation": "bool",
        "ipam": "object",
        "ipam.type": "string",
        **_DNS,
        "args": "object",
        "args.cni": "object",
        "args.cni.mac": "string",
        "runtimeConfig": "object",
        "runtimeConfig.mac": "string",
    },
    "host-local": {
        "ipam": "object",
        "ipam.type": "string",
        "ipam.dataDir": "string",
        "ipam.resolvConf": "string",
        **{f"ipam.{key}": kind for key, kind in _RANGE.items()},
        "ipam.ranges": "array",
        "ipam.ranges[]": "array",
        "ipam.ranges[][]": "object",
        **{f"ipam.ranges[][].{key}": kind for key, kind in _RANGE.items()},
        "ipam.routes": "array",
        "ipam.routes[]": "object",
        "ipam.routes[].dst": "string",
        "ipam.routes[].gw": "string",
        **{f"ipam.routes[].{key}": "int" for key in ("mtu", "advmss", "priority", "table", "scope")},
        "args": "object",
        "args.cni": "object",
        "args.cni.ips": "array",
        "args.cni.ips[]": "string",
        "runtimeConfig": "object",
        "runtimeConfig.ips": "array",
        "runtimeConfig.ips[]": "string",
        "runtimeConfig.ipRanges": "array",
        "runtimeConfig.ipRanges[]": "array",
        "runtimeConfig.ipRanges[][]": "object",
        **{f"runtimeConfig.ipRanges[][].{key}": kind for key, kind in _RANGE.items()},
    },
    "loopback": {"type": "string", "capabilities": "object", "ipam": "object", "dns": "object"},
}
_PREFIX = {
    "bridge": "failed to load netconf: ",
    "host-local": "",
    "loopback": "failed to parse network config: ",
}


def wrong_types(plugin: str, path: str) -> list[Case]:
    """One case for each value of a wrong type at `path` ("a.b[].c"; `[]` is a list's only item)."""
    wanted = KEYS[plugin][path]
    shown = path.replace("[]", "[0]")
    # Items of lists of texts bear their list's name.
    told = shown.removesuffix("[0]") if wanted == "string" else shown
    return [
        Case(
            f"{path} is {value!r}",
            999,
            f"{_PREFIX[plugin]}json: cannot unmarshal {_kind(value)} into…",
            (f'"{told}"', json.dumps(value, separators=(",", ":"))),
            plugin=plugin,
            config=_document(path, value),
        )
        for value in WRONG[wanted]
    ]


def _kind(value: Any) -> str:
    kinds = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _document(path: str, value: Any) -> dict[str, Any]:
    """A patch of the good config with `value` at `path`."""
    document = value
    for part in reversed(re.findall(r"[A-Za-z]+|\[\]", path)):
        if part == "[]":
            document = [document]
            continue
        siblings: dict[str, Any] = {}
        if "ranges" in path.lower() and part in ("rangeStart", "rangeEnd", "gateway"):
            siblings = {"subnet": "10.73.0.0/24"}
        if "routes" in path and part != "dst" and "[]" in path.partition(part)[0]:
            siblings = {"dst": "10.99.0.0/16"}
        document = {**siblings, part: document}
    return document  # type: ignore[no-any-return]
