"""A case of the differential suite as data: what is done to two equal worlds, one per implementation.

Texts of configs, variables and commands may hold names that each world fills in with its own values:

    $DATADIR            an empty folder for host-local's `dataDir`
    $FILES              the folder of the case's `files`
    $BIN, $REF          the plugins under test, and the reference's in both worlds
    $HOST, $POD1 …      paths of the namespaces
    $GONE               a path below /run/netns that does not exist
"""

from __future__ import annotations

import dataclasses
from typing import Any

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
WITH_INTERFACES = VERSIONS[2:]
WITH_CHECK = VERSIONS[4:]
CURRENT = ("1.0.0",)

NETWORK = "diffnet"
BRIDGE = "diffbr0"

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """One execution of a plugin.

    - `config` is sent as JSON, with name, type and cniVersion put in where it has none; bytes as they are.
    - `prev`: whether the result of the last successful call of this attachment is handed in as prevResult.
    - `edits`: changes of that result: (path with slashes, new value; ... removes, a last part `-` appends).
    - `netns`: CNI_NETNS instead of the pod's path. `env`: other variables; None unsets one.
    - `reference`: in both worlds the reference's executable is called, as that of a foreign delegator.
    - `path`: CNI_PATH; the default is the folder of the plugins under test, then the reference's.
    - `since`: the step is left out in older spec versions.
    """

    verb: str
    config: Config | bytes
    plugin: str = "bridge"
    pod: int = 1
    container_id: str = ""
    ifname: str = "eth0"
    prev: bool = False
    edits: tuple[tuple[str, Any], ...] = ()
    netns: str | None = None
    env: tuple[tuple[str, str | None], ...] = ()
    reference: bool = False
    path: str = "$BIN:$REF"
    since: str = ""

    @property
    def owner(self) -> str:
        """The container id, by default one per pod."""
        return self.container_id or f"pod-{self.pod}"


@dataclasses.dataclass(frozen=True)
class Shell:
    """A command of sh on the host or in a pod; it must succeed."""

    command: str
    pod: int = 0


Step = Call | Shell


@dataclasses.dataclass(frozen=True)
class Case:
    """What happens, one step after the other; everything that can be seen is compared after each.

    `ours` are the plugins that come from the implementation under test; the others are the reference's in
    both worlds.
    """

    steps: tuple[Step, ...]
    versions: tuple[str, ...] = CURRENT
    pods: int = 1
    files: tuple[tuple[str, str], ...] = ()
    ours: tuple[str, ...] = ("bridge", "host-local", "loopback")


def call(verb: str, config: Config | bytes, **more: Any) -> Call:
    """A call; names in capitals among `more` are environment variables."""
    env = tuple((name, more.pop(name)) for name in list(more) if name.isupper())
    return Call(verb, config, env=env, **more)


def add(config: Config | bytes, **more: Any) -> Call:
    """ADD."""
    return call("ADD", config, **more)


def check(config: Config | bytes, **more: Any) -> Call:
    """CHECK with the result of this attachment's ADD as prevResult."""
    return call("CHECK", config, **({"prev": True} | more))


def delete(config: Config | bytes, **more: Any) -> Call:
    """DEL."""
    return call("DEL", config, **more)


def life(config: Config, **more: Any) -> tuple[Step, ...]:
    """ADD, CHECK where the version has it, DEL, and in the newest versions DEL once more."""
    return (
        add(config, **more),
        check(config, since="0.4.0", **more),
        delete(config, **more),
        delete(config, since="1.0.0", **more),
    )


def subnet(text: str, start: str = "", end: str = "", gateway: str = "") -> dict[str, str]:
    """A range of host-local."""
    members = {"subnet": text, "rangeStart": start, "rangeEnd": end, "gateway": gateway}
    return {key: value for key, value in members.items() if value}


def ipam(*sets: list[dict[str, str]] | str, **more: Any) -> Config:
    """A config's host-local part; a text stands for a set of one subnet."""
    ranges = [[subnet(each)] if isinstance(each, str) else each for each in sets]
    return {"ipam": {"type": "host-local", "dataDir": "$DATADIR", "ranges": ranges} | more}


def bridge(*sets: list[dict[str, str]] | str, **more: Any) -> Config:
    """A config of the bridge plugin; layer 2 without range sets. `ipam` adds to host-local's part."""
    extra = more.pop("ipam", {})
    config: Config = {"bridge": BRIDGE} | more
    return config | ipam(*sets, **extra) if sets else config


V4 = "10.40.0.0/24"
V6 = "fd40::/64"
